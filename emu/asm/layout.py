"""Addresses and bytes: from the items of each section to a program.

Rounds over the items give addresses until none moves; then the bytes are made. Every size but
those of alignment and ``.fill`` only grows, so that the rounds end, or else say which statement
depends on itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from emu.asm.encode import EncodingError, prepare
from emu.asm.expr import (
    LOCAL_MARK,
    Binary,
    ExpressionError,
    Name,
    Node,
    Scope,
    Unary,
    Value,
)
from emu.asm.items import MAX_BYTES, Instruction, Item, Mark
from emu.asm.program import LineEntry, LineTable, Program, Section, SectionFlags
from emu.units import PAGE_SIZE, VA

MAX_ROUNDS = 100

SECTIONS = {
    ".text": SectionFlags.READ | SectionFlags.EXECUTE,
    ".rodata": SectionFlags.READ,
    ".data": SectionFlags.READ | SectionFlags.WRITE,
    ".bss": SectionFlags.READ | SectionFlags.WRITE | SectionFlags.NOBITS,
}
"""Names of the sections in the order of their addresses, with their flags."""

SECTION_START = "\x02"
"""Before a section's name: the internal symbol for its first address."""


@dataclass(slots=True)
class Unit:
    """All that the statements of one source said."""

    base: int
    items: dict[str, list[Item]] = field(default_factory=lambda: {name: [] for name in SECTIONS})
    constants: dict[str, int] = field(default_factory=dict)
    global_names: frozenset[str] = frozenset()
    bits: int = 64

    def marks(self) -> list[Mark]:
        """Labels and other symbols that depend on addresses, in the order of the sections."""
        return [m for items in self.items.values() for m in items if isinstance(m, Mark)]


def link(unit: Unit) -> Program:
    """Give everything its address and make the program; raises AssemblyError."""
    _check_cycles(unit)
    _prepare_encodings(unit)
    symbols = {name: Value(value) for name, value in unit.constants.items()}
    starts = _lay_out(unit, symbols)
    return _build(unit, symbols, starts)


def names_in(node: Node) -> list[str]:
    """Symbols in an expression, from left to right."""
    if isinstance(node, Name):
        return [node.name]
    if isinstance(node, Unary):
        return names_in(node.operand)
    if isinstance(node, Binary):
        return names_in(node.left) + names_in(node.right)
    return []


def _check_cycles(unit: Unit) -> None:
    """Refuse symbols that are defined by themselves: they would settle at an arbitrary value."""
    marks = {mark.name: mark for mark in unit.marks() if not mark.is_label}
    done: set[str] = set()
    for name, mark in marks.items():
        path = [] if name in done else [name]
        while path:
            used = [n for n in names_in(marks[path[-1]].node) if n in marks and n not in done]
            if not used:
                done.add(path.pop())
            elif used[0] in path:
                raise mark.origin.error(f"{used[0]} is defined by itself")
            else:
                path.append(used[0])


def _prepare_encodings(unit: Unit) -> None:
    texts: dict[int, list[str]] = {}
    for items in unit.items.values():
        for item in items:
            if isinstance(item, Instruction) and item.template.text is not None:
                texts.setdefault(item.template.bits, []).append(item.template.text)
    for bits, wanted in texts.items():
        prepare(wanted, bits)


def _lay_out(unit: Unit, symbols: dict[str, Value]) -> dict[str, int]:
    """Settle addresses, sizes and symbols; returns where the used sections start."""
    for mark in unit.marks():
        symbols[mark.name] = Value(unit.base, int(mark.is_label))
    last: Item | None = None
    for _round in range(MAX_ROUNDS):
        moved = False
        starts: dict[str, int] = {}
        address = unit.base
        for section, items in unit.items.items():
            if not items:
                continue
            if starts:
                address = -(-address // PAGE_SIZE) * PAGE_SIZE
            starts[section] = address
            symbols[SECTION_START + section] = Value(address, 1)
            for item in items:
                scope = Scope(symbols, address)
                size = item.measure(scope)
                moved |= size != item.size or address != item.address
                if size != item.size:
                    last = item
                item.size, item.address = size, address
                if isinstance(item, Mark):
                    value = item.value(scope)
                    if value is not None and value != symbols[item.name]:
                        symbols[item.name] = value
                        moved = True
                address += size
                if address - unit.base > MAX_BYTES:
                    raise item.origin.error(f"the program is over {MAX_BYTES >> 20} MiB")
        if not moved:
            return starts
    culprit = last or unit.marks()[0]
    raise culprit.origin.error("the size of this statement depends on itself and never settles")


def _build(unit: Unit, symbols: Mapping[str, Value], starts: Mapping[str, int]) -> Program:
    sections: list[Section] = []
    image = bytearray()
    lines: list[LineEntry] = []
    bss_size = 0
    for name, start in starts.items():
        has_bits = SectionFlags.NOBITS not in SECTIONS[name]
        image += bytes(start - unit.base - len(image))
        for item in unit.items[name]:
            data = _emit(item, symbols)
            if item.is_instruction:
                origin = item.origin
                lines.append(LineEntry(VA(item.address), item.size, origin.file, origin.line))
            if has_bits:
                image += data
            else:
                bss_size += item.size
        size = unit.base + len(image) - start if has_bits else bss_size
        if size:
            sections.append(Section(name, VA(start), size, SECTIONS[name]))
    named = {
        name: value.value
        for name, value in symbols.items()
        if LOCAL_MARK not in name and not name.startswith(SECTION_START)
    }
    labels = frozenset(m.name for m in unit.marks() if m.is_label and m.name in named)
    return Program(
        base=VA(unit.base),
        image=bytes(image),
        bss_size=bss_size,
        sections=tuple(sections),
        symbols=named,
        lines=LineTable(lines),
        entry=VA(named["_start"] if "_start" in labels else unit.base),
        labels=labels,
        global_names=unit.global_names,
        bits=unit.bits,
    )


def _emit(item: Item, symbols: Mapping[str, Value]) -> bytes:
    try:
        data = item.emit(Scope(symbols, item.address))
    except (ExpressionError, EncodingError) as error:
        raise item.origin.error(str(error)) from None
    if len(data) != item.size:
        raise item.origin.error(f"takes {len(data)} bytes where {item.size} were planned")
    return data
