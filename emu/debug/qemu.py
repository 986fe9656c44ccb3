"""Answers in the format of QEMU's monitor, which page-table commands for gdb parse.

``info mem``: ranges that follow each other with equal rights; ``info tlb``: every page. Both speak
of what the tables say, not of a TLB, as in QEMU. Formats: QEMU's target/i386/monitor.c.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from emu.mappings import Mapping, iter_mappings
from emu.paging import (
    PTE_A,
    PTE_D,
    PTE_G,
    PTE_MFN_MASK,
    PTE_NX,
    PTE_PCD,
    PTE_PSE,
    PTE_PWT,
    PTE_RW,
    PTE_US,
)
from emu.walk import PV_CONTROLS, Controls, TableMemory

MAX_LINES: Final = 100_000
_TLB_FLAGS: Final = (
    (PTE_NX, "X"),
    (PTE_G, "G"),
    (PTE_PSE, "P"),
    (PTE_D, "D"),
    (PTE_A, "A"),
    (PTE_PCD, "C"),
    (PTE_PWT, "T"),
    (PTE_US, "U"),
    (PTE_RW, "W"),
)
_M64: Final = (1 << 64) - 1


def info_mem(memory: TableMemory, cr3: int, controls: Controls = PV_CONTROLS) -> Iterator[str]:
    """``START-END SIZE RIGHTS``, a line for each range, END exclusive."""
    start = end = 0
    rights = ""
    for item in iter_mappings(memory, cr3, controls=controls):
        if item.reserved:
            continue
        mine = f"{'u' if item.rights.user else '-'}r{'w' if item.rights.write else '-'}"
        if rights and item.va == end and mine == rights:
            end += item.size
            continue
        if rights:
            yield _range(start, end, rights)
        start, end, rights = item.va, item.va + item.size, mine
    if rights:
        yield _range(start, end, rights)


def _range(start: int, end: int, rights: str) -> str:
    return f"{start:016x}-{end & _M64:016x} {end - start:016x} {rights}"


def info_tlb(memory: TableMemory, cr3: int, controls: Controls = PV_CONTROLS) -> Iterator[str]:
    """``ADDRESS: MACHINE-ADDRESS FLAGS``, a line for each page."""
    found = iter_mappings(memory, cr3, controls=controls)
    for item in islice((item for item in found if not item.reserved), MAX_LINES):
        yield f"{item.va:016x}: {_target(item):016x} {_flags(item)}"


def _target(item: Mapping) -> int:
    return item.entry & PTE_MFN_MASK & -item.size


def _flags(item: Mapping) -> str:
    entry = item.entry if item.level > 1 else item.entry & ~PTE_PSE
    return "".join(letter if entry & bit else "-" for bit, letter in _TLB_FLAGS)
