"""Who maps a frame: every entry of every validated table, and the addresses that lead there.

Found by looking through all tables, as the audit does: nothing keeps such a list. A chain of
linear mappings ends where the levels do; what is found is bounded by ``MAX_FOUND``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from emu.paging import LEVEL_SIZE, PTE_MFN_MASK, PTE_P, canonical
from emu.units import MFN, PAGE_SHIFT, VA
from hypervisor.abi import L4_FIRST_XEN_SLOT, L4_LAST_XEN_SLOT
from hypervisor.domain import NO_FRAME
from hypervisor.frames import VALIDATED

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_FOUND: Final = 4096


@dataclass(frozen=True, slots=True)
class EntryOf:
    """A present entry of a validated table."""

    level: int
    table: MFN
    index: int
    value: int

    @property
    def address(self) -> int:
        """Machine address of the entry."""
        return (self.table << PAGE_SHIFT) + 8 * self.index


@dataclass(frozen=True, slots=True)
class Reach:
    """An address of domain ``domain`` that leads to the frame, in the tree under ``root``."""

    entry: EntryOf
    domain: int
    root: MFN
    va: VA


def entries_of(hv: "Hypervisor", mfn: int, level: int) -> list[EntryOf]:
    """The present entries at ``level`` that name frame ``mfn``."""
    frames = hv.frames
    mask = (frames.type_column == level) & ((frames.flags_column & VALIDATED) != 0)
    tables = np.flatnonzero(mask)
    if not len(tables):
        return []
    values = hv.machine.memory.array[tables]
    wanted = np.uint64(mfn << PAGE_SHIFT)
    bits = np.uint64(PTE_MFN_MASK | PTE_P)
    hits = (values & bits) == (wanted | np.uint64(PTE_P))
    if level == 4:
        hits[:, L4_FIRST_XEN_SLOT : L4_LAST_XEN_SLOT + 1] = False
    rows, indices = np.nonzero(hits)
    return [
        EntryOf(level, MFN(int(tables[row])), index, int(values[row, index]))
        for row, index in zip(rows.tolist()[:MAX_FOUND], indices.tolist(), strict=False)
    ]


def reach(hv: "Hypervisor", entry: EntryOf) -> Iterator[Reach]:
    """The addresses that go through an entry, in all trees; none if its table is in no tree."""
    for domain, root, va in _trees(hv, entry.table, entry.level, entry.index):
        yield Reach(entry, domain, root, va)


def _trees(
    hv: "Hypervisor", table: MFN, level: int, index: int, below: int = 0
) -> Iterator[tuple[int, MFN, VA]]:
    owner = hv.frames.owner[table]
    domain = hv.domains.get(owner)
    offset = below + index * LEVEL_SIZE[level]
    if domain is not None and level == (3 if domain.width == 32 else 4):
        yield owner, table, canonical(offset) if level == 4 else VA(offset)
        return
    if level < 4:
        for up in entries_of(hv, table, level + 1):
            yield from _trees(hv, up.table, up.level, up.index, offset)


def role_of(hv: "Hypervisor", root: MFN) -> str:
    """What a top table is to its domain: its kernel's, its user mode's, or one that waits."""
    domain = hv.domains.get(hv.frames.owner[root])
    if domain is None or root == NO_FRAME:
        return ""
    if domain.width == 32:
        return "in use" if domain.l3 == root else "not in use"
    names = []
    if domain.table == root:
        names.append("kernel")
    if domain.user_table == root:
        names.append("user")
    return " and ".join(names) or "not in use"
