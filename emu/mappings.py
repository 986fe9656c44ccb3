"""What an address space maps: every leaf entry in order of address, for dumps and audits.

``iter_mappings`` goes through the tables below a CR3 value and yields one ``Mapping`` per leaf;
``fold`` joins neighbours into ranges. Both are generators and hold one path of tables, not the
tree.

A table that appears in itself (a linear mapping) is followed like any other, which always ends
because the number of levels is fixed. A hostile tree of 512 self references at every level
would still be 512^3 tables; so subtrees that map nothing are remembered and not searched twice,
``skip_slots`` leaves entries of the top table out, and ``limit`` ends the search.

Source: Intel SDM volume 3A, sections 4.4 and 4.5.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from emu.paging import (
    LEVEL_SIZE,
    PTE_MFN_MASK,
    PTE_NX,
    PTE_P,
    PTE_RW,
    PTE_US,
    PagingMode,
    canonical,
    is_leaf,
    reserved_mask,
)
from emu.units import ENTRIES, MA, MFN, PAGE_SHIFT, VA
from emu.walk import PV_CONTROLS, Controls, Rights, TableMemory

_ALL = 1 << 64
_ALL_RIGHTS = PTE_RW | PTE_US


@dataclass(frozen=True, slots=True)
class Mapping:
    """One present entry that maps a page, or that is malformed and so maps nothing."""

    va: VA
    """First linear address."""
    size: int
    """Bytes that the entry covers."""
    level: int
    address: MA
    """Machine address of the entry."""
    entry: int
    mfn: MFN
    """First frame mapped."""
    rights: Rights
    """Of all levels together."""
    reserved: int
    """Reserved bits that are set; if not 0, every access faults."""


@dataclass(frozen=True, slots=True)
class MappedRange:
    """Neighbouring mappings with the same rights."""

    va: VA
    size: int
    """Bytes."""
    mfn: MFN
    """Frame at ``va``."""
    pages: int
    """Number of leaf entries."""
    rights: Rights
    reserved: int


def iter_mappings(
    memory: TableMemory,
    cr3: int,
    *,
    controls: Controls = PV_CONTROLS,
    start: int = 0,
    end: int = _ALL,
    skip_slots: Collection[int] = (),
    limit: int | None = None,
) -> Iterator[Mapping]:
    """Every present leaf that covers an address in ``start <= va < end``, in order of address.

    ``skip_slots`` are indices in the top table. At most ``limit`` mappings are yielded; ask for
    one more than you show to know whether there are more. Tables must not change meanwhile.

    Raises:
        ValueError: paging is off.
    """
    mode = controls.mode
    if mode is PagingMode.OFF:
        raise ValueError("without paging there are no mappings")
    search = _Search(memory, controls, start, end)
    yield from islice(search.top(cr3, frozenset(skip_slots)), limit)


class _Search:
    """The fixed part of one search, and the subtrees found empty."""

    def __init__(self, memory: TableMemory, controls: Controls, start: int, end: int) -> None:
        self.memory = memory
        self.controls = controls
        self.mode = controls.mode
        self.start = start
        self.end = end
        self.empty: set[tuple[int, MA]] = set()

    def top(self, cr3: int, skip: frozenset[int]) -> Iterator[Mapping]:
        level = self.mode.value
        pae = self.mode is PagingMode.PAE
        base = MA(cr3 & (0xFFFF_FFE0 if pae else PTE_MFN_MASK))
        for index in range(4 if pae else ENTRIES):
            if index in skip:
                continue
            va = canonical(index * LEVEL_SIZE[level], self.mode.va_bits)
            if pae:
                va = VA(index * LEVEL_SIZE[level])
            yield from self.entry(base, index, va, level, _ALL_RIGHTS)

    def table(self, base: MA, va: int, level: int, rights: int) -> Iterator[Mapping]:
        """Mappings of the table at ``base``, which translates addresses from ``va`` on."""
        if base >> PAGE_SHIFT >= self.memory.frames or (level, base) in self.empty:
            return
        size = LEVEL_SIZE[level]
        first = max(0, (self.start - va) // size)
        last = min(ENTRIES - 1, (self.end - 1 - va) // size)
        found = False
        for index in range(first, last + 1):
            for mapping in self.entry(base, index, VA(va + index * size), level, rights):
                found = True
                yield mapping
        if not found and last - first == ENTRIES - 1:
            self.empty.add((level, base))

    def entry(self, base: MA, index: int, va: VA, level: int, rights: int) -> Iterator[Mapping]:
        size = LEVEL_SIZE[level]
        address = MA(base + index * 8)
        if va >= self.end or va + size <= self.start:
            return
        if address >> PAGE_SHIFT >= self.memory.frames:
            return
        entry = self.memory.read_u64(address)
        if not entry & PTE_P:
            return
        if self.mode is not PagingMode.PAE or level < 3:
            rights &= entry | ~_ALL_RIGHTS
            rights |= entry & PTE_NX
        reserved = entry & reserved_mask(entry, level, self.mode, nxe=self.controls.nxe)
        if not reserved and not is_leaf(entry, level, self.mode):
            yield from self.table(MA(entry & PTE_MFN_MASK), va, level - 1, rights)
            return
        yield Mapping(
            va=va,
            size=size,
            level=level,
            address=address,
            entry=entry,
            mfn=MFN((entry & PTE_MFN_MASK & -size) >> PAGE_SHIFT),
            rights=Rights(bool(rights & PTE_RW), bool(rights & PTE_US), not rights & PTE_NX),
            reserved=reserved,
        )


def fold(mappings: Iterable[Mapping], *, contiguous: bool = True) -> Iterator[MappedRange]:
    """Join mappings that follow each other and have equal rights.

    With ``contiguous`` their frames must follow each other too; without it a range's ``mfn``
    speaks only for its first page.
    """
    current: MappedRange | None = None
    for item in mappings:
        if (
            current is not None
            and item.va == current.va + current.size
            and item.rights == current.rights
            and item.reserved == current.reserved
            and (not contiguous or item.mfn == current.mfn + (current.size >> PAGE_SHIFT))
        ):
            current = MappedRange(
                current.va,
                current.size + item.size,
                current.mfn,
                current.pages + 1,
                current.rights,
                current.reserved,
            )
            continue
        if current is not None:
            yield current
        current = MappedRange(item.va, item.size, item.mfn, 1, item.rights, item.reserved)
    if current is not None:
        yield current
