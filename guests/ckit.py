"""C guests: from one source to a bootable ELF, by gcc and the kit in ``guests/kit``.

The kit's own objects are compiled once and kept in the user's cache directory, as are finished
guests, so that a test run pays about a tenth of a second for a changed program and next to
nothing for an unchanged one. A guest's key covers the source, its path (debug information and
``__FILE__`` hold it), the kit, the compiler and the defines; the files that it includes are
checked against the digests that were stored with it.

The one line for a shell is ``one_line``; it makes the same program.

Invariants: the cache never decides what comes out, only how fast; files in it appear whole or not
at all, so that parallel processes may share it. ``COWBIRD_CACHE`` names the directory; empty, or
where none can be written, everything is compiled anew.

How it fails: ``CompileError``, with the compiler's own words (``file:line:column: error: ...``),
or with what is missing.

Source: the manual of GCC 12, sections 3.2, 3.11 and 3.13 (overall, preprocessor, directories).
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from emu.errors import CowbirdError

KIT: Final = Path(__file__).resolve().parent / "kit"
"""The kit: sources, ``include/``, ``guest.ld`` and ``flags`` (gcc's options, one file).

``guest32.ld`` and ``flags32`` are their like for 32-bit guests; the sources serve both widths.
"""
CACHE_VARIABLE: Final = "COWBIRD_CACHE"
COMPILER_VARIABLE: Final = "COWBIRD_CC"
"""Environment variables: where to keep what was compiled, and which gcc to use."""
TIMEOUT: Final = 60
"""Seconds that the compiler may take."""
MAX_WORDS: Final = 20_000
"""Characters of the compiler's output that an error keeps."""
MAX_ENTRIES: Final = 1000
"""Finished guests that the cache keeps."""
_MAX_KITS: Final = 8

_CANDIDATES: Final = ("gcc", "x86_64-linux-gnu-gcc")
_FORMAT: Final = b"cowbird C guest 1\n"
_NO_DEFINES: Final[Mapping[str, str]] = {}
_ERROR: Final = re.compile(r"\b(?:fatal )?error:|undefined reference|multiple definition")

TEMPLATE: Final = """\
// cowbird: description = a page that is read-only cannot be written

#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();

    ktap_plan(3);
    ok_result(pte_protect(page, PTE_RO), 0, "the page can be made read-only");
    ok_fault(probe_read(page), NO_FAULT, "a read is still allowed");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "a write faults: present, write");
    return 0;
}
"""
"""A program that passes, to begin from."""


class CompileError(CowbirdError):
    """A C guest does not compile or link, or there is no compiler.

    ``str()`` holds the compiler's error lines; ``words`` all that it said.
    """

    def __init__(self, message: str, words: str = "") -> None:
        super().__init__(message)
        self.words = words or message


@dataclass(frozen=True, slots=True)
class Compiler:
    """A gcc that makes x86 code of both widths; ``identity`` changes when it is replaced."""

    path: str
    identity: str


def _suffix(width: int) -> str:
    return "" if width == 64 else str(width)


def one_line(source: str, output: str, kit: str | None = None, width: int = 64) -> str:
    """The shell command that builds ``source`` with nothing but gcc, for guests of 32 or 64 bits.

    ``kit`` is the kit's directory as the reader is to type it; None means where it is.
    """
    where = shlex.quote(kit or str(KIT))
    kind = _suffix(width)
    return (
        f"gcc @{where}/flags{kind} -I {where}/include -T {where}/guest{kind}.ld"
        f" {where}/*.S {where}/*.c {shlex.quote(source)} -o {shlex.quote(output)}"
    )


def find_compiler() -> Compiler:
    """The gcc to use: what ``COWBIRD_CC`` names, else the first on the PATH that fits.

    Raises:
        CompileError: there is none.
    """
    return _find_compiler(os.environ.get(COMPILER_VARIABLE, ""), os.environ.get("PATH", ""))


@cache
def _find_compiler(asked: str, search: str) -> Compiler:
    machines: list[str] = []
    for name in (asked,) if asked else _CANDIDATES:
        path = shutil.which(name, path=search)
        if path is None:
            continue
        machine = _run([path, "-dumpmachine"], name).stdout.strip()
        if machine.startswith("x86_64"):
            found = Path(path).resolve()
            status = found.stat()
            return Compiler(path, f"{found} {machine} {status.st_size} {status.st_mtime_ns}")
        machines.append(f"{path} makes code for {machine or 'no machine it would name'}")
    if asked and not machines:
        raise CompileError(f"no C compiler: {COMPILER_VARIABLE} names {asked}, which is not here")
    hint = "; ".join(machines) or f"install gcc, or name one in {COMPILER_VARIABLE}"
    raise CompileError(f"no C compiler for 64-bit x86: {hint}")


def build_elf(path: Path, *, width: int = 64, defines: Mapping[str, str] = _NO_DEFINES) -> bytes:
    """Compile and link the C source at ``path`` with the kit; the bytes of a Xen PV ELF.

    ``width``: 32 or 64 bits. ``defines`` are macros for the preprocessor. The debug information is
    kept.

    Raises:
        CompileError: it cannot be read or does not compile; no compiler; or it took too long.
    """
    try:
        source = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise CompileError(f"{path}: cannot be read: {reason}") from error
    compiler = find_compiler()
    directory = _cache_directory()
    # resolve() would give a file behind a symbolic link another name than the user knows.
    full = Path(os.path.abspath(path))
    parts = [_kit_digest(), compiler.identity, str(width), str(full), source.hex()]
    parts += [f"{name}={value}" for name, value in sorted(defines.items())]
    stored = directory / f"{_digest(parts)}.guest" if directory else None
    if stored is not None:
        elf = _load(stored)
        if elf is not None:
            return elf
    with tempfile.TemporaryDirectory(prefix="cowbird-") as scratch:
        work = Path(scratch)
        objects = _kit_objects(compiler, directory, work, width)
        elf, includes = _compile(compiler, full, path, objects, defines, work, width)
    if stored is not None:
        _store(stored, elf, includes)
    return elf


# -- the compiler --------------------------------------------------------------------------------


def _run(
    command: Sequence[str], name: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    # Its words are compared and shown: plain English, whatever the user's locale.
    environment = {**os.environ, "LC_ALL": "C"}
    for variable in ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "DEPENDENCIES_OUTPUT"):
        environment.pop(variable, None)
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{name}: the compiler took more than {TIMEOUT} s") from error
    except OSError as error:
        reason = error.strerror or error
        raise CompileError(f"{name}: {command[0]} cannot be run: {reason}") from error


def _options(work: Path, width: int) -> list[str]:
    return [
        f"@{KIT}/flags{_suffix(width)}",
        "-fno-diagnostics-show-caret",
        "-fdiagnostics-color=never",
        f"-fdebug-prefix-map={work}=.",
        f"-I{KIT}/include",
    ]


def _kit_sources() -> list[Path]:
    return sorted([*KIT.glob("*.S"), *KIT.glob("*.c")])


def _kit_objects(compiler: Compiler, directory: Path | None, work: Path, width: int) -> list[Path]:
    """The kit, compiled: out of the cache, into it, or in ``work``."""
    sources = _kit_sources()
    names = [f"{source.stem}.o" for source in sources]
    final = None
    if directory is not None:
        final = directory / f"kit-{_digest([_kit_digest(), compiler.identity, str(width)])}"
        if all((final / name).is_file() for name in names):
            return [final / name for name in names]
    target = work / "kit"
    target.mkdir()
    command = [compiler.path, *_options(target, width), "-c", *map(str, sources)]
    done = _run(command, str(KIT), target)
    if done.returncode:
        raise CompileError(f"the kit does not compile: {_errors(done.stderr)}", done.stderr)
    if final is not None:
        # Whoever renames first wins; the others have compiled the same.
        with contextlib.suppress(OSError):
            moved = Path(tempfile.mkdtemp(dir=directory))
            shutil.copytree(target, moved, dirs_exist_ok=True)
            try:
                moved.rename(final)
            except OSError:
                shutil.rmtree(moved)
    return [target / name for name in names]


def _compile(
    compiler: Compiler,
    full: Path,
    given: Path,
    objects: Iterable[Path],
    defines: Mapping[str, str],
    work: Path,
    width: int,
) -> tuple[bytes, list[Path]]:
    """The linked guest, and the files that it includes besides the kit's."""
    output, depends = work / "guest.elf", work / "guest.d"
    command = [
        compiler.path,
        *_options(work, width),
        *(f"-D{name}={value}" for name, value in sorted(defines.items())),
        "-fmax-errors=20",
        "-MMD",
        "-MF",
        str(depends),
        "-T",
        str(KIT / f"guest{_suffix(width)}.ld"),
        *map(str, objects),
        str(full),
        "-o",
        str(output),
    ]
    done = _run(command, str(given), work)
    words = done.stderr.replace(str(full), str(given))[:MAX_WORDS]
    if done.returncode:
        raise CompileError(_errors(words) or f"{given}: the compiler failed", words)
    try:
        elf = output.read_bytes()
        includes = [name for name in _dependencies(depends.read_text()) if name != full]
    except OSError as error:
        raise CompileError(f"{given}: the compiler left no output: {error.strerror}") from error
    return elf, [name for name in includes if KIT not in name.parents]


def _errors(words: str) -> str:
    """The lines that say what is wrong; all of them if none can be told from the rest."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    chosen = [line for line in lines if _ERROR.search(line) and "collect2" not in line]
    return "\n".join(re.sub(r"^\S*ld: ", "", line) for line in chosen or lines)


def _dependencies(rule: str) -> list[Path]:
    """The prerequisites of the one make rule that gcc writes."""
    _, _, text = rule.replace("\\\n", " ").partition(": ")
    words = re.findall(r"(?:\\.|[^\s\\])+", text)
    return [Path(re.sub(r"\\(.)", r"\1", word).replace("$$", "$")) for word in words]


# -- the cache -----------------------------------------------------------------------------------


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]


def _file_digest(path: Path) -> str:
    """Digest of a file's contents; empty if it cannot be read, which no stored digest is."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _kit_digest() -> str:
    files = sorted(path for path in KIT.rglob("*") if path.is_file())
    return _digest(f"{path.relative_to(KIT)} {_file_digest(path)}" for path in files) + str(KIT)


def _cache_directory() -> Path | None:
    """Where to keep things, made if it is not there; None if nowhere."""
    asked = os.environ.get(CACHE_VARIABLE)
    if asked == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        directory = Path(asked) if asked else root / "cowbird" / "c"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return directory if os.access(directory, os.W_OK | os.X_OK) else None


def _load(stored: Path) -> bytes | None:
    """The guest in ``stored`` if it is whole and nothing that it includes has changed."""
    try:
        data = stored.read_bytes()
    except OSError:
        return None
    digest, _, rest = data.removeprefix(_FORMAT).partition(b"\n")
    if not data.startswith(_FORMAT) or hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    head, _, elf = rest.partition(b"\n")
    if any(_file_digest(Path(name)) != digest for name, digest in json.loads(head)):
        return None
    return elf


def _store(stored: Path, elf: bytes, includes: Iterable[Path]) -> None:
    head = json.dumps([[str(name), _file_digest(name)] for name in includes]).encode()
    rest = head + b"\n" + elf
    digest = hashlib.sha256(rest).hexdigest().encode()
    # A full disk, or a cache that somebody just removed, costs time and nothing else.
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=stored.parent, prefix="new-")
        with open(handle, "wb") as stream:
            stream.write(_FORMAT + digest + b"\n" + rest)
        os.replace(name, stored)
        _prune(stored.parent)


def _prune(directory: Path) -> None:
    """Keep the newest guests, at most ``MAX_ENTRIES``, and the newest compiled kits."""
    for kind, most in (("*.guest", MAX_ENTRIES), ("kit-*", _MAX_KITS)):
        entries = list(directory.glob(kind))
        if len(entries) <= most:
            continue
        entries.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name))
        # A quarter more than needed, so that this is not done for every guest.
        for entry in entries[: len(entries) - most * 3 // 4]:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
