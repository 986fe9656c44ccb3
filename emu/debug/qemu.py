"""Answers in the format of QEMU's monitor, which page-table commands for gdb parse.

``info mem``: ranges that follow each other with equal rights; ``info tlb``: every page. Both speak
of what the tables say, not of a TLB, as in QEMU. ``info registers``: one CPU. Formats: QEMU's
target/i386/monitor.c and cpu-dump.c.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from emu.cpu import SEGMENT_NAMES
from emu.cpustate import OFF_GDT, OFF_LDT, OFF_SEGS, SEGMENT_BYTES
from emu.descriptors import SEGMENT, SEGMENT_CODE, SEGMENT_DB, SEGMENT_L, SEGMENT_P
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
    RFLAGS,
)
from emu.registers import Registers
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
_CACHE: Final = struct.Struct("<I4xQII")
_FLAG_LETTERS: Final = (
    ("DF", "D"), ("OF", "O"), ("SF", "S"), ("ZF", "Z"), ("AF", "A"), ("PF", "P"), ("CF", "C"),
)  # fmt: skip
_ORDER64: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip


def info_mem(
    memory: TableMemory, cr3: int, controls: Controls = PV_CONTROLS, limit: int = 1 << 64
) -> Iterator[str]:
    """``START-END SIZE RIGHTS``, a line for each range below ``limit``, END exclusive."""
    start = end = 0
    rights = ""
    for item in iter_mappings(memory, cr3, controls=controls, end=limit):
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


def info_tlb(
    memory: TableMemory, cr3: int, controls: Controls = PV_CONTROLS, limit: int = 1 << 64
) -> Iterator[str]:
    """``ADDRESS: MACHINE-ADDRESS FLAGS``, a line for each page below ``limit``."""
    found = iter_mappings(memory, cr3, controls=controls, end=limit)
    for item in islice((item for item in found if not item.reserved), MAX_LINES):
        yield f"{item.va:016x}: {_target(item):016x} {_flags(item)}"


def _target(item: Mapping) -> int:
    return item.entry & PTE_MFN_MASK & -item.size


def _flags(item: Mapping) -> str:
    entry = item.entry if item.level > 1 else item.entry & ~PTE_PSE
    return "".join(letter if entry & bit else "-" for bit, letter in _TLB_FLAGS)


@dataclass(frozen=True, slots=True)
class SegmentCache:
    """A segment register's visible and hidden parts."""

    selector: int
    base: int
    limit: int
    attributes: int


def segment_caches(state: bytes | memoryview) -> dict[str, SegmentCache]:
    """The six segment registers, LDTR and GDTR of a CPU state (``Cpu.state``, ``Cpu.save``)."""
    places = {name: OFF_SEGS + i * SEGMENT_BYTES for i, name in enumerate(SEGMENT_NAMES)}
    places |= {"ldt": OFF_LDT, "gdt": OFF_GDT}
    return {name: SegmentCache(*_CACHE.unpack_from(state, at)) for name, at in places.items()}


def info_registers(
    registers: Registers,
    segments: dict[str, SegmentCache],
    debug: list[int] | None = None,
    halted: bool = False,
) -> Iterator[str]:
    """One CPU as ``info registers`` shows it; ``debug``: DR0..DR7."""
    long_mode = registers.bits == 64
    digits = 16 if long_mode else 8
    yield "CPU#0"
    names = _ORDER64 if long_mode else _ORDER64[:8]
    for first in range(0, len(names), 4):
        yield " ".join(
            f"{(name if long_mode else 'e' + name[1:]).upper():<3}="
            f"{registers.value(name) & ((1 << 4 * digits) - 1):0{digits}x}"
            for name in names[first : first + 4]
        )
    flags = "".join(
        letter if RFLAGS.get(registers.rflags, name) else "-" for name, letter in _FLAG_LETTERS
    )
    pc, fl = ("RIP", "RFL") if long_mode else ("EIP", "EFL")
    yield (
        f"{pc}={registers.rip:0{digits}x} {fl}={registers.rflags:08x} [{flags}] "
        f"CPL={registers.cpl} II=0 A20=1 SMM=0 HLT={int(halted)}"
    )
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        yield _segment(name, segments[name], digits)
    local, table = segments["ldt"], segments["gdt"]
    empty = SegmentCache(0, 0, 0, 0)
    yield _segment("ldt", local, digits)
    yield _segment("tr", empty, digits)
    yield f"GDT=     {table.base:0{digits}x} {table.limit:08x}"
    yield f"IDT=     {0:0{digits}x} {0:08x}"
    yield (
        f"CR0={registers.cr0:08x} CR2={registers.cr2:0{digits}x} "
        f"CR3={registers.cr3:0{digits}x} CR4={registers.cr4:08x}"
    )
    dr = debug or [0] * 8
    yield " ".join(f"DR{i}={dr[i]:0{digits}x}" for i in range(4)) + " "
    yield f"DR6={dr[6]:0{digits}x} DR7={dr[7]:0{digits}x}"
    yield f"EFER={registers.efer:016x}"
    fpu = registers.fpu
    yield (
        f"FCW={fpu.get('fctrl', 0):04x} FSW={fpu.get('fstat', 0):04x} "
        f"[ST={fpu.get('fstat', 0) >> 11 & 7}] FTW={fpu.get('ftag', 0) & 0xFF:02x} "
        f"MXCSR={fpu.get('mxcsr', 0):08x}"
    )
    for i in range(0, len(registers.xmm), 2):
        yield " ".join(
            f"XMM{i + j:02}={int.from_bytes(value, 'little'):032x}"
            for j, value in enumerate(registers.xmm[i : i + 2])
        )


def _segment(name: str, cache: SegmentCache, digits: int) -> str:
    line = (
        f"{name.upper():<3}={cache.selector:04x} {cache.base:0{digits}x} "
        f"{cache.limit:08x} {cache.attributes & 0x00F0FF00:08x}"
    )
    descriptor = cache.attributes << 32
    if not descriptor & SEGMENT_P:
        return line
    kind = SEGMENT.get(descriptor, "TYPE")
    line += f" DPL={SEGMENT.get(descriptor, 'DPL')} "
    if not SEGMENT.get(descriptor, "S"):
        return line + ("LDT" if kind == 2 else "TSS")
    if descriptor & SEGMENT_CODE:
        line += "CS64" if descriptor & SEGMENT_L else "CS32" if descriptor & SEGMENT_DB else "CS16"
        letters = "CR"
    else:
        line += "DS  "
        letters = "EW"
    bits = "".join(
        letter if kind & bit else "-" for letter, bit in zip(letters, (4, 2), strict=True)
    )
    return f"{line} [{bits}{'A' if kind & 1 else '-'}]"
