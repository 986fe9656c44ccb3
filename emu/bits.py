"""Bit layouts: one declaration per register or table entry, from which everything else derives.

A ``Layout`` names every field of a word once. Decoding, encoding, printing and the rows of
the documentation come from that declaration, so they cannot drift apart. Code that runs often
does not call a layout: it uses integer masks taken from one at import (see ``emu.paging``).

Invariants: the fields of a layout do not overlap and lie inside its width; a bit that belongs
to no field is *reserved* and is never hidden when a value is printed.

Fails with ``ValueError``, naming layout and field, for a value that does not fit its field, and
with ``KeyError`` for a field that does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """One line of a layout's documentation."""

    bits: str
    """Bit numbers, highest first: ``63`` or ``39..12`` or ``63..56, 39..16``."""
    name: str
    meaning: str


class Part(NamedTuple):
    """A run of adjacent bits in the word: the lowest bit number and how many bits."""

    low: int
    width: int

    @property
    def bits(self) -> str:
        """The bit numbers as text, highest first."""
        return str(self.low) if self.width == 1 else f"{self.low + self.width - 1}..{self.low}"


@dataclass(frozen=True, slots=True)
class Field:
    """A named part of a word. Use ``flag``, ``field`` or ``split`` to declare one."""

    name: str
    parts: tuple[Part, ...]
    """Where the field's bits are in the word, least significant part first."""
    meaning: str
    scale: int = 0
    """The decoded value is the stored bits shifted left by this many bits."""
    names: Mapping[int, str] | None = None
    """Names of decoded values, for printing."""
    show_zero: bool = False
    """Print the field also when its value is zero."""

    @property
    def width(self) -> int:
        """Number of stored bits."""
        return sum(part.width for part in self.parts)

    @property
    def mask(self) -> int:
        """The field's bits in the word."""
        mask = 0
        for low, width in self.parts:
            mask |= ((1 << width) - 1) << low
        return mask

    def extract(self, word: int) -> int:
        """Value of the field in ``word``."""
        value = shift = 0
        for low, width in self.parts:
            value |= ((word >> low) & ((1 << width) - 1)) << shift
            shift += width
        return value << self.scale

    def insert(self, value: int) -> int:
        """Word with only this field set to ``value``.

        Raises:
            ValueError: ``value`` does not fit, or is not a multiple of the field's unit.
        """
        stored = value >> self.scale
        if not 0 <= stored < 1 << self.width:
            limit = ((1 << self.width) - 1) << self.scale
            raise ValueError(f"field {self.name}: {value:#x} is outside 0..{limit:#x}")
        if stored << self.scale != value:
            raise ValueError(
                f"field {self.name}: {value:#x} is not a multiple of {1 << self.scale:#x}"
            )
        word = 0
        for low, width in self.parts:
            word |= (stored & ((1 << width) - 1)) << low
            stored >>= width
        return word

    def text(self, value: int) -> str:
        """The field as ``Layout.describe`` prints it; empty if there is nothing to say."""
        if not value and not self.show_zero:
            return ""
        if self.width == 1:
            return self.name
        name = self.names.get(value) if self.names else None
        return f"{self.name}={value:#x}" if name is None else f"{self.name}={name}"


def flag(name: str, bit: int, meaning: str) -> Field:
    """Declare a one-bit field."""
    return Field(name, (Part(bit, 1),), meaning)


def field(
    name: str,
    low: int,
    width: int,
    meaning: str,
    *,
    scale: int = 0,
    names: Mapping[int, str] | None = None,
    show_zero: bool = False,
) -> Field:
    """Declare a field of adjacent bits; see ``Field`` for the options."""
    return Field(name, (Part(low, width),), meaning, scale, names, show_zero)


def split(
    name: str,
    parts: tuple[tuple[int, int], ...],
    meaning: str,
    *,
    show_zero: bool = False,
) -> Field:
    """Declare a field stored in several ``(low, width)`` parts, least significant part first."""
    return Field(name, tuple(Part(*part) for part in parts), meaning, show_zero=show_zero)


class Layout:
    """The fields of one word.

    ``name`` is what the manual calls the word, ``width`` its bits, ``source`` the manual's
    section. ``ones`` are reserved bits that always read as one: ``encode`` sets them and
    ``describe`` mentions only those that are clear.

    Raises:
        ValueError: fields overlap, repeat a name or leave the word.
    """

    def __init__(
        self, name: str, width: int, source: str, fields: tuple[Field, ...], *, ones: int = 0
    ) -> None:
        self.name = name
        self.width = width
        self.source = source
        self.fields = fields
        self.ones = ones
        self._by_name = {item.name: item for item in fields}
        used = ones
        for item in fields:
            if used & item.mask:
                raise ValueError(f"layout {name}: field {item.name} overlaps another")
            used |= item.mask
        if len(self._by_name) != len(fields):
            raise ValueError(f"layout {name}: a field name is used twice")
        if used >> width:
            raise ValueError(f"layout {name}: a field lies outside its {width} bits")
        self.reserved = ~used & ((1 << width) - 1)
        """Bits that belong to no field and are not fixed at one."""

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.width} bits, {self.source}>"

    def field(self, name: str) -> Field:
        """The field called ``name``.

        Raises:
            KeyError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"layout {self.name} has no field {name}") from None

    def mask(self, *names: str) -> int:
        """The bits of the named fields, or-ed together."""
        mask = 0
        for name in names:
            mask |= self.field(name).mask
        return mask

    def get(self, value: int, name: str) -> int:
        """Value of one field in the word ``value``."""
        return self.field(name).extract(value)

    def decode(self, value: int) -> dict[str, int]:
        """Every field's value, in the order of declaration.

        Raises:
            ValueError: ``value`` does not fit the word.
        """
        self._check(value)
        return {item.name: item.extract(value) for item in self.fields}

    def encode(self, **fields: int) -> int:
        """The word with these fields set, all others zero and the fixed ones at one.

        Raises:
            ValueError: a value does not fit its field.
        """
        word = self.ones
        for name, value in fields.items():
            try:
                word |= self.field(name).insert(value)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
        return word

    def describe(self, value: int) -> str:
        """One line: set flags by name, other fields as ``NAME=value``, and stray bits.

        Reserved bits that are set appear as ``reserved=<mask>``, and fixed ones that are clear
        as ``missing=<mask>``. A word with nothing to say is ``0``.
        """
        self._check(value)
        words = [item.text(item.extract(value)) for item in self.fields]
        if value & self.reserved:
            words.append(f"reserved={value & self.reserved:#x}")
        if ~value & self.ones:
            words.append(f"missing={~value & self.ones:#x}")
        return " ".join(word for word in words if word) or "0"

    def table(self) -> list[Row]:
        """Rows for documentation, highest bit first, reserved and fixed runs included."""
        rows: list[tuple[int, Row]] = []
        for item in self.fields:
            parts = sorted(item.parts, reverse=True)
            meaning = item.meaning
            if item.names:
                meaning += ": " + ", ".join(f"{key} {text}" for key, text in item.names.items())
            row = Row(", ".join(part.bits for part in parts), item.name, meaning)
            rows.append((parts[0].low, row))
        for mask, meaning in ((self.reserved, "reserved, must be 0"), (self.ones, "always 1")):
            rows += [(run.low, Row(run.bits, "-", meaning)) for run in _runs(mask)]
        return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]

    def _check(self, value: int) -> None:
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{self.name}: {value:#x} does not fit {self.width} bits")


def _runs(mask: int) -> list[Part]:
    """The maximal runs of set bits in ``mask``, lowest first."""
    runs: list[Part] = []
    low = 0
    while mask >> low:
        if not mask >> low & 1:
            low += 1
            continue
        width = 1
        while mask >> (low + width) & 1:
            width += 1
        runs.append(Part(low, width))
        low += width
    return runs
