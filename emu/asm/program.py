"""What assembling yields: the flat image, its sections, its symbols and its line table.

Invariants: ``image`` begins at ``base``; every section but ``.bss`` lies inside it; if there is a
``.bss``, it begins exactly where ``image`` ends, so ``len(image) + bss_size`` bytes from ``base``
are the whole memory that the program needs.
"""

import enum
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from emu.units import VA


class SectionFlags(enum.Flag):
    """What the program does with a section's memory."""

    READ = enum.auto()
    WRITE = enum.auto()
    EXECUTE = enum.auto()
    NOBITS = enum.auto()
    """Zeros that take no room in a file (``.bss``)."""


@dataclass(frozen=True, slots=True)
class Section:
    """A run of addresses with one purpose; ``size`` is in bytes and excludes padding behind it."""

    name: str
    address: VA
    size: int
    flags: SectionFlags

    @property
    def end(self) -> VA:
        """First address behind the section."""
        return VA(self.address + self.size)


@dataclass(frozen=True, slots=True)
class LineEntry:
    """One instruction (``size`` bytes at ``address``) and the source line that made it.

    For an instruction out of a macro that is the line of the outermost call.
    """

    address: VA
    size: int
    file: str
    line: int


class LineTable:
    """Addresses to source lines and back, for instructions only."""

    def __init__(self, entries: Iterable[LineEntry] = ()) -> None:
        self._entries = tuple(sorted(entries, key=lambda entry: entry.address))
        self._addresses = [entry.address for entry in self._entries]
        self._by_line: dict[tuple[str, int], VA] = {}
        for entry in self._entries:
            self._by_line.setdefault((entry.file, entry.line), entry.address)

    @property
    def entries(self) -> tuple[LineEntry, ...]:
        """All entries, by ascending address."""
        return self._entries

    def lookup(self, address: int) -> tuple[str, int] | None:
        """(file, line) of the instruction that covers ``address``; None outside instructions."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        entry = self._entries[index]
        return (entry.file, entry.line) if address < entry.address + entry.size else None

    def address_of(self, file: str, line: int) -> VA | None:
        """Lowest address of an instruction made by that line; None if the line makes none.

        ``file`` is either the name as the table has it or its last path components
        (``boot.s`` finds ``guests/first/boot.s``); an ambiguous name finds the lowest address.
        """
        exact = self._by_line.get((file, line))
        if exact is not None:
            return exact
        wanted = PurePath(file).parts
        found = [
            address
            for (name, number), address in self._by_line.items()
            if wanted and number == line and PurePath(name).parts[-len(wanted) :] == wanted
        ]
        return min(found, default=None)


@dataclass(frozen=True, slots=True)
class Program:
    """An assembled program, linked at ``base``.

    ``symbols`` holds labels (addresses) and constants (``.equ`` and the caller's
    defines); ``labels`` says which of them are labels, ``global_names`` which of them the
    source declared with ``.global``. Numeric labels are not in it. ``bits`` (32 or 64) is the width
    it was assembled for.
    """

    base: VA
    image: bytes
    bss_size: int
    sections: tuple[Section, ...]
    symbols: Mapping[str, int]
    lines: LineTable
    entry: VA
    labels: frozenset[str] = frozenset()
    global_names: frozenset[str] = frozenset()
    bits: int = 64

    def section(self, name: str) -> Section | None:
        """The section of that name (``.text``), or None if the source put nothing in it."""
        return next((section for section in self.sections if section.name == name), None)

    def contents(self, section: Section) -> bytes:
        """The bytes of a section; empty for one without bits."""
        if SectionFlags.NOBITS in section.flags:
            return b""
        start = section.address - self.base
        return self.image[start : start + section.size]
