"""From paths to test programs, and the expression of ``-k``.

A directory is searched for sources (``.asm``, ``.c``) with a manifest at their head and for images
with a sidecar; hidden folders, ``__pycache__`` and folders called ``lib`` or ``kit`` are left out.
A file that is named by itself is a program with or without a manifest. The order is that of the
paths given, then alphabetical; a program that is reached twice is taken once.

A program's id is ``group/name``: the folder relative to what was given, and the file's stem. Two
programs that would have the same id keep their suffix.

How it fails: ``CollectError`` for a path that is not there or an expression that cannot be read.
A program whose manifest is wrong is still collected, with the error in place of the manifest.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from emu.errors import CowbirdError
from guests.runner.manifest import (
    DEFAULT_ENVIRONMENTS,
    NO_PV32,
    Manifest,
    ManifestError,
    find_sidecar,
    has_manifest,
    read_sidecar,
    read_source,
)

SOURCES: Final = (".asm", ".s", ".c")
_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "lib", "kit", "node_modules"})


class CollectError(CowbirdError):
    """A path or an expression on the command line cannot be used."""


@dataclass(frozen=True, slots=True)
class TestProgram:
    """One program. ``error`` is what is wrong with its manifest, empty if nothing is."""

    __test__ = False  # for pytest, which takes classes called Test... for its own

    path: Path
    group: str
    name: str
    manifest: Manifest
    error: str = ""

    @property
    def id(self) -> str:
        """``group/name``, or the name where there is no group."""
        return f"{self.group}/{self.name}" if self.group else self.name

    @property
    def is_source(self) -> bool:
        """True if it has to be assembled or compiled."""
        return is_source(self.path)


def is_source(path: Path) -> bool:
    """True for a source by its suffix; everything else is taken for an image."""
    return path.suffix.lower() in SOURCES


def load_program(path: Path, group: str = "") -> TestProgram:
    """The program in one file."""
    try:
        if is_source(path):
            manifest = read_source(path)
        else:
            sidecar = find_sidecar(path)
            manifest = Manifest() if sidecar is None else read_sidecar(sidecar)
            if manifest.environments == DEFAULT_ENVIRONMENTS and _is_narrow(path):
                manifest = replace(manifest, environments=("pv32",), not_on_xen=NO_PV32)
    except ManifestError as error:
        return TestProgram(path, group, path.stem, Manifest(), str(error))
    return TestProgram(path, group, path.stem, manifest)


def _is_narrow(path: Path) -> bool:
    """True for a plain ELF image of 32 bits, which no other environment can run."""
    try:
        with path.open("rb") as stream:
            return stream.read(5) == b"\x7fELF\x01"
    except OSError:
        return False  # whoever builds it will say why


def collect(paths: Sequence[Path]) -> list[TestProgram]:
    """All programs under ``paths``.

    Raises:
        CollectError: there is no such file or directory, or it cannot be read.
    """
    found: dict[Path, TestProgram] = {}
    for given in paths:
        try:
            if given.is_dir():
                for path in _walk(given):
                    folder = path.parent.relative_to(given).parts
                    group = "/".join(folder) or given.resolve().name
                    found.setdefault(path.resolve(), load_program(path, group))
            elif given.is_file():
                group = given.resolve().parent.name
                found.setdefault(given.resolve(), load_program(given, group))
            else:
                what = "not a file or directory" if given.exists() else "no such file or directory"
                raise CollectError(f"{given}: {what}")
        except OSError as error:
            raise CollectError(f"{error.filename or given}: {error.strerror or error}") from error
    return _distinct(list(found.values()))


def _distinct(programs: list[TestProgram]) -> list[TestProgram]:
    """Give programs of equal id their suffix, then a number, so that ids are unique."""
    ids = Counter(program.id for program in programs)
    named = [replace(p, name=p.path.name) if ids[p.id] > 1 else p for p in programs]
    taken: Counter[str] = Counter()
    result = []
    for program in named:
        taken[program.id] += 1
        again = taken[program.id]
        result.append(replace(program, name=f"{program.name}~{again}") if again > 1 else program)
    return result


def count_unlabelled(paths: Iterable[Path]) -> int:
    """How many sources in these directories are no programs, for want of a manifest.

    Raises:
        CollectError: a directory cannot be read.
    """
    try:
        return sum(
            is_source(path) and not is_program(path)
            for given in paths
            if given.is_dir()
            for path in _files(given)
        )
    except OSError as error:
        raise CollectError(f"{error.filename}: {error.strerror or error}") from error


def _walk(directory: Path) -> Iterator[Path]:
    return filter(is_program, _files(directory))


def _files(directory: Path) -> Iterator[Path]:
    for entry in sorted(directory.iterdir(), key=lambda path: path.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS and not entry.is_symlink():
                yield from _files(entry)
        else:
            yield entry


def is_program(path: Path) -> bool:
    """True if a file says that it is a test program: manifest at its head, or a sidecar."""
    if path.suffix == ".toml" or not path.is_file():
        return False
    return has_manifest(path) if is_source(path) else find_sidecar(path) is not None


# -- -k -----------------------------------------------------------------------------------------

Selector = Callable[[str], bool]
_TOKEN: Final = re.compile(r"\s*([()]|[^\s()]+)")
_MAX_DEPTH: Final = 100


def selector(expression: str) -> Selector:
    """What ``-k`` means: parts of ids (case does not matter) with ``and``, ``or``, ``not``, ().

    Raises:
        CollectError: it cannot be read.
    """
    tokens = _TOKEN.findall(expression)
    parsed, rest = _either(tokens, 0, expression)
    if rest:
        raise CollectError(f"-k {expression!r}: {rest[0]!r} is not expected")
    return parsed


def _either(tokens: list[str], depth: int, whole: str) -> tuple[Selector, list[str]]:
    first, tokens = _both(tokens, depth, whole)
    terms = [first]
    while tokens and tokens[0] == "or":
        term, tokens = _both(tokens[1:], depth, whole)
        terms.append(term)
    return (lambda text: any(term(text) for term in terms)), tokens


def _both(tokens: list[str], depth: int, whole: str) -> tuple[Selector, list[str]]:
    first, tokens = _one(tokens, depth, whole)
    terms = [first]
    while tokens and tokens[0] == "and":
        term, tokens = _one(tokens[1:], depth, whole)
        terms.append(term)
    return (lambda text: all(term(text) for term in terms)), tokens


def _one(tokens: list[str], depth: int, whole: str) -> tuple[Selector, list[str]]:
    if depth > _MAX_DEPTH:
        raise CollectError(f"-k: more than {_MAX_DEPTH} levels")
    if not tokens or tokens[0] in (")", "and", "or"):
        what = f"a name before {tokens[0]!r}" if tokens else "a name at the end"
        raise CollectError(f"-k {whole!r}: {what} is missing")
    head, rest = tokens[0], tokens[1:]
    if head == "not":
        inner, rest = _one(rest, depth + 1, whole)
        return (lambda text: not inner(text)), rest
    if head == "(":
        inner, rest = _either(rest, depth + 1, whole)
        if not rest or rest[0] != ")":
            raise CollectError(f"-k {whole!r}: a ')' is missing")
        return inner, rest[1:]
    word = head.lower()
    return (lambda text: word in text.lower()), rest


def select(programs: Iterable[TestProgram], expression: str) -> list[TestProgram]:
    """The programs whose id fits ``expression``; all for an empty one."""
    programs = list(programs)
    if not expression.strip():
        return programs
    wanted = selector(expression)
    return [program for program in programs if wanted(program.id)]
