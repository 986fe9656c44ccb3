"""Assembled guests, kept: most of a small test's time would be assembling it again.

The key of an image covers all that decides about it: the width, the source, all files that it
includes (found by reading the sources, anew each time), the assembler, and the library that makes
the ELF.
A source whose includes cannot be told by reading (one inside a macro) is not kept at all.

The directory is ``COWBIRD_CACHE`` (empty: none), else ``cowbird/asm`` in the user's cache. Files
in it appear whole or not at all. How it fails: it does not; what cannot be read or written is
assembled anew, and errors come from the assembler.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
GUESTS: Final = ROOT / "guests"
"""Where sources may include from besides their own folder."""
MAX_ENTRIES: Final = 1000
_MADE_BY: Final = ("emu/asm/*.py", "emu/elf.py", "guests/library.py", "hypervisor/abi/elfnote.py")
_INCLUDE: Final = re.compile(rb"\.(include|incbin)\b(?:[ \t]+\"([^\"\\]+)\")?", re.IGNORECASE)
_IN_MACRO: Final = re.compile(
    rb"\.macro\b(?:(?!\.endm\b).)*\.(?:include|incbin)\b", re.IGNORECASE | re.DOTALL
)
_MAX_FILES: Final = 200


def build(path: Path, assemble: Callable[[Path], bytes], width: int = 64) -> bytes:
    """The image of a source: the kept one of ``width`` bits, or what ``assemble`` makes."""
    directory = _directory()
    name = None if directory is None else _key(path, width)
    if directory is None or name is None:
        return assemble(path)
    stored = directory / f"{name}.elf"
    try:
        data = stored.read_bytes()
        digest, image = data[:32], data[32:]
        if hashlib.sha256(image).digest() == digest:
            return image
    except OSError:
        pass
    image = assemble(path)
    # A full disk costs time and nothing else.
    with contextlib.suppress(OSError):
        handle, part = tempfile.mkstemp(dir=directory, prefix="new-")
        with open(handle, "wb") as stream:
            stream.write(hashlib.sha256(image).digest() + image)
        Path(part).replace(stored)
        _prune(directory)
    return image


def _directory() -> Path | None:
    asked = os.environ.get("COWBIRD_CACHE")
    if asked == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        directory = Path(asked) if asked else root / "cowbird"
        directory = directory / "asm"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return directory


def _key(path: Path, width: int) -> str | None:
    """What decides about the image, as one digest; None if it cannot be told."""
    files: dict[Path, bytes] = {}
    waiting = [path]
    try:
        while waiting:
            one = waiting.pop()
            if one in files:
                continue
            files[one] = one.read_bytes()
            if len(files) > _MAX_FILES:
                return None
            if _IN_MACRO.search(files[one]):
                return None
            for match in _INCLUDE.finditer(files[one]):
                if match[2] is None:
                    return None
                found = _find(match[2].decode(), one)
                if found is None:
                    return None
                if match[1].lower() == b"incbin":
                    files[found] = found.read_bytes()
                else:
                    waiting.append(found)
        total = hashlib.sha256(f"{width} {_maker()}".encode())
    except (OSError, UnicodeDecodeError):
        return None
    # In the order in which they were met: names do not matter, but which is which does.
    for data in files.values():
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:40]


def _find(name: str, including: Path) -> Path | None:
    """As the assembler does it: beside the file that includes it, then in ``guests``."""
    for folder in (including.parent, GUESTS):
        candidate = folder / name
        if candidate.is_file():
            return candidate
    return None


@cache
def _maker() -> str:
    """Digest of the code that turns sources into images."""
    total = hashlib.sha256(b"cowbird asm 1")
    for pattern in _MADE_BY:
        for path in sorted(ROOT.glob(pattern)):
            total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def _prune(directory: Path) -> None:
    """Keep the newest ``MAX_ENTRIES``."""
    entries = list(directory.glob("*.elf"))
    if len(entries) > MAX_ENTRIES:
        entries.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name))
        for entry in entries[: len(entries) // 4]:
            entry.unlink(missing_ok=True)
