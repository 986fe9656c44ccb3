"""A new test program that passes at once, to begin from.

How it fails: ``ScaffoldError`` if the name cannot be one, or something of that name is there.
"""

import re
from pathlib import Path
from typing import Final

from emu.errors import CowbirdError

_NAME: Final = re.compile(r"[A-Za-z][\w-]{0,63}")
_ASSEMBLY: Final = """\
; cowbird: description = {name}: what this program finds out, in one line
; cowbird: environments = {environments}
; cowbird: domains = 1
; cowbird: memory = 8M
;
; More keys: 'cowbird test --help'. The library is described in guests/lib/*.inc.

.include "lib/kernel.inc"

.text
main:
    ktap_plan 2

    ; The stack is mapped and can be written: reading gives back what was stored.
    ; (XAX is RAX, or EAX where this is assembled for 32 bits.)
    mov  xax, 0x5ca1ab1e
    push xax
    pop  xbx
    sub  xbx, xax
    ktap_result xbx, "memory holds what was written"

    ; Xen answers a call: version 4 in the upper half of the result.
    mov  edi, XENVER_version
    hypercall xen_version
    shr  eax, 16
    sub  eax, 4
    mov  ebx, eax
    ktap_result xbx, "the hypervisor is Xen 4"
    ret
"""
_DESCRIPTION: Final = re.compile(r"^// cowbird: description *[=:].*$", re.MULTILINE)


class ScaffoldError(CowbirdError):
    """A new program cannot be written; the text says why."""


ENVIRONMENTS: Final = {"64": "pv64, xen", "32": "pv32", "both": "pv64, pv32, xen"}
"""What a new program's manifest says, by the width that was asked for."""


def new_guest(name: str, directory: Path, *, c: bool = False, width: str = "64") -> Path:
    """Write ``name.asm`` or ``name.c`` into ``directory``, which is made if it is not there.

    ``width``: of ``ENVIRONMENTS``.

    Raises:
        ScaffoldError: the name cannot be one, a program of that name exists, or nothing can be
            written there.
    """
    stem = name.removesuffix(".c" if c else ".asm")
    if not _NAME.fullmatch(stem):
        raise ScaffoldError(f"{name!r} cannot be a guest's name: a letter, then letters and digits")
    for suffix in (".asm", ".c"):
        other = directory / f"{stem}{suffix}"
        if other.exists() or other.is_symlink():
            raise ScaffoldError(f"{other} is already there, and is left as it is")
    path = directory / f"{stem}{'.c' if c else '.asm'}"
    where = ENVIRONMENTS[width]
    text = _c_source(stem, where) if c else _ASSEMBLY.format(name=stem, environments=where)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except FileExistsError:
        raise ScaffoldError(f"{path} is already there, and is left as it is") from None
    except OSError as error:
        raise ScaffoldError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _c_source(name: str, environments: str) -> str:
    from guests.ckit import TEMPLATE

    line = (
        f"// cowbird: description = {name}: what this program finds out, in one line\n"
        f"// cowbird: environments = {environments}"
    )
    return _DESCRIPTION.sub(line, TEMPLATE)
