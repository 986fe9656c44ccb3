"""Formats that the MMU and the traps are made of: table entries, registers, error codes.

Each layout below is the only place where its bits are written down; the integer constants
that code uses are taken from the layouts at import. After the layouts come the address
arithmetic of tables and the paging modes.

Source: Intel SDM volume 3A (the section of each layout is in its ``source``).

Physical addresses are 40 bits wide, which is what every 64-bit CPU model of the emulator
reports (CPUID 80000008H). So, in a *present* entry:

* bits 12..39 hold the frame number;
* bits 40..51 are reserved, and one that is set makes the MMU raise #PF with RSVD;
* bits 52..58 are ignored, and so are 59..62 unless CR4.PKE turns them into a protection key
  (under PAE all of 52..62 are reserved instead);
* bit 63 is NX if EFER.NXE is set and reserved otherwise;
* bits 9..11 (AVL, 0xe00) belong to software.

All bits of an entry whose P is clear are free for software.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from emu.bits import Field, Layout, field, flag, split
from emu.units import MFN, PAGE_SHIFT, VA

PHYSICAL_BITS: Final = 40
"""Width of a machine address in bits."""

# --- Table entries -------------------------------------------------------------------------


def _entry(
    name: str, section: str, *middle: Field, low: int = PAGE_SHIFT, nx: bool = True
) -> Layout:
    """An entry of a 64-bit table: what all levels have in common, and ``middle``."""
    frame = field(
        "MFN",
        low,
        PHYSICAL_BITS - low,
        "machine frame number",
        scale=low - PAGE_SHIFT,
        show_zero=True,
    )
    return Layout(
        name,
        64,
        f"Intel SDM 3A {section}",
        (
            flag("P", 0, "present"),
            flag("RW", 1, "writable; clear: read-only"),
            flag("US", 2, "user; clear: supervisor only"),
            flag("PWT", 3, "write-through"),
            flag("PCD", 4, "cache disabled"),
            flag("A", 5, "accessed"),
            *middle,
            field("AVL", 9, 3, "free for software"),
            frame,
            flag("NX", 63, "no instruction fetch (with EFER.NXE)"),
        ),
    )


_D = flag("D", 6, "dirty: written to")
_PSE = flag("PSE", 7, "page size: this entry maps a large page")
_G = flag("G", 8, "global: survives a CR3 load (with CR4.PGE)")
_IGN = field("IGN", 52, 7, "ignored")
_PKEY = field("PKEY", 59, 4, "protection key (with CR4.PKE)")

PTE: Final = _entry(
    "L1 entry, 4 KiB page",
    "4.5.4 table 4-20",
    _D,
    flag("PAT", 7, "memory type, upper bit"),
    _G,
    _IGN,
    _PKEY,
)
_PAT_LARGE = flag("PAT", 12, "memory type, upper bit")
LARGE_L2E: Final = _entry(
    "L2 entry, 2 MiB page", "4.5.4 table 4-18", _D, _PSE, _G, _PAT_LARGE, _IGN, _PKEY, low=21
)
LARGE_L3E: Final = _entry(
    "L3 entry, 1 GiB page", "4.5.4 table 4-16", _D, _PSE, _G, _PAT_LARGE, _IGN, _PKEY, low=30
)
TABLE_ENTRY: Final = _entry(
    "L2 or L3 entry, table",
    "4.5.4 tables 4-17 and 4-19",
    split("IGN", ((6, 1), (8, 1), (52, 11)), "ignored"),
)
"""PSE is clear in such an entry, so it shows as reserved; ``layout_of`` never picks it then."""
L4E: Final = _entry(
    "L4 or L5 entry, table",
    "4.5.4 tables 4-14 and 4-15",
    split("IGN", ((6, 1), (8, 1), (52, 11)), "ignored"),
)
"""Like ``TABLE_ENTRY``, but there are no large pages here: bit 7 is really reserved."""
PAE_L3E: Final = Layout(
    "PAE L3 entry, table",
    64,
    "Intel SDM 3A 4.4.1 table 4-8",
    (
        flag("P", 0, "present"),
        flag("PWT", 3, "write-through"),
        flag("PCD", 4, "cache disabled"),
        field("AVL", 9, 3, "free for software"),
        field("MFN", 12, PHYSICAL_BITS - 12, "machine frame number", show_zero=True),
    ),
)
"""One of four. It carries no rights and no A bit; the CPU reads it when CR3 is loaded."""

PTE_P: Final = PTE.mask("P")
PTE_RW: Final = PTE.mask("RW")
PTE_US: Final = PTE.mask("US")
PTE_PWT: Final = PTE.mask("PWT")
PTE_PCD: Final = PTE.mask("PCD")
PTE_A: Final = PTE.mask("A")
PTE_D: Final = PTE.mask("D")
PTE_PAT: Final = PTE.mask("PAT")
PTE_PSE: Final = LARGE_L2E.mask("PSE")
PTE_G: Final = PTE.mask("G")
PTE_AVL: Final = PTE.mask("AVL")
PTE_PAT_LARGE: Final = LARGE_L2E.mask("PAT")
PTE_PKEY: Final = PTE.mask("PKEY")
PTE_NX: Final = PTE.mask("NX")
PTE_MFN_MASK: Final = PTE.mask("MFN")
PTE_HIGH_IGNORED: Final = PTE.mask("IGN", "PKEY")
"""Bits 52..62: ignored or a protection key in long mode, reserved under PAE."""

# --- Control registers ---------------------------------------------------------------------

CR0: Final = Layout(
    "CR0",
    64,
    "Intel SDM 3A 2.5",
    (
        flag("PE", 0, "protected mode"),
        flag("MP", 1, "WAIT honours TS"),
        flag("EM", 2, "no x87: #NM"),
        flag("TS", 3, "task switched: the next FPU or SSE instruction raises #NM"),
        flag("ET", 4, "387 protocol"),
        flag("NE", 5, "x87 errors raise #MF"),
        flag("WP", 16, "read-only pages bind the supervisor too"),
        flag("AM", 18, "alignment checks allowed"),
        flag("NW", 29, "not write-through"),
        flag("CD", 30, "cache disabled"),
        flag("PG", 31, "paging"),
    ),
)
CR0_PE: Final = CR0.mask("PE")
CR0_MP: Final = CR0.mask("MP")
CR0_EM: Final = CR0.mask("EM")
CR0_TS: Final = CR0.mask("TS")
CR0_ET: Final = CR0.mask("ET")
CR0_NE: Final = CR0.mask("NE")
CR0_WP: Final = CR0.mask("WP")
CR0_AM: Final = CR0.mask("AM")
CR0_NW: Final = CR0.mask("NW")
CR0_CD: Final = CR0.mask("CD")
CR0_PG: Final = CR0.mask("PG")

CR3: Final = Layout(
    "CR3",
    64,
    "Intel SDM 3A 4.5.2 table 4-12 (CR4.PCIDE clear)",
    (
        flag("PWT", 3, "write-through"),
        flag("PCD", 4, "cache disabled"),
        field("MFN", 12, PHYSICAL_BITS - 12, "frame of the top table", show_zero=True),
    ),
)
CR3_MFN_MASK: Final = CR3.mask("MFN")

CR4: Final = Layout(
    "CR4",
    64,
    "Intel SDM 3A 2.5",
    (
        flag("VME", 0, "virtual-8086 extensions"),
        flag("PVI", 1, "protected-mode virtual interrupts"),
        flag("TSD", 2, "RDTSC only at CPL 0"),
        flag("DE", 3, "debugging extensions"),
        flag("PSE", 4, "4 MiB pages (32-bit paging)"),
        flag("PAE", 5, "64-bit table entries"),
        flag("MCE", 6, "machine checks"),
        flag("PGE", 7, "global pages"),
        flag("PCE", 8, "RDPMC at any CPL"),
        flag("OSFXSR", 9, "SSE and FXSAVE"),
        flag("OSXMMEXCPT", 10, "SSE errors raise #XM"),
        flag("UMIP", 11, "SGDT, SIDT, SLDT, SMSW, STR only at CPL 0"),
        flag("LA57", 12, "5-level paging"),
        flag("VMXE", 13, "VMX"),
        flag("SMXE", 14, "SMX"),
        flag("FSGSBASE", 16, "RDFSBASE and its like"),
        flag("PCIDE", 17, "process-context identifiers"),
        flag("OSXSAVE", 18, "XSAVE"),
        flag("SMEP", 20, "the supervisor does not execute user pages"),
        flag("SMAP", 21, "the supervisor does not touch user pages unless AC is set"),
        flag("PKE", 22, "protection keys for user pages"),
        flag("CET", 23, "control-flow enforcement"),
        flag("PKS", 24, "protection keys for supervisor pages"),
    ),
)
CR4_TSD: Final = CR4.mask("TSD")
CR4_DE: Final = CR4.mask("DE")
CR4_PSE: Final = CR4.mask("PSE")
CR4_PAE: Final = CR4.mask("PAE")
CR4_MCE: Final = CR4.mask("MCE")
CR4_PGE: Final = CR4.mask("PGE")
CR4_PCE: Final = CR4.mask("PCE")
CR4_OSFXSR: Final = CR4.mask("OSFXSR")
CR4_OSXMMEXCPT: Final = CR4.mask("OSXMMEXCPT")
CR4_UMIP: Final = CR4.mask("UMIP")
CR4_LA57: Final = CR4.mask("LA57")
CR4_FSGSBASE: Final = CR4.mask("FSGSBASE")
CR4_PCIDE: Final = CR4.mask("PCIDE")
CR4_OSXSAVE: Final = CR4.mask("OSXSAVE")
CR4_SMEP: Final = CR4.mask("SMEP")
CR4_SMAP: Final = CR4.mask("SMAP")
CR4_PKE: Final = CR4.mask("PKE")

EFER: Final = Layout(
    "EFER",
    64,
    "Intel SDM 3A 2.2.1; AMD APM 2 3.1.7 for SVME, LMSLE, FFXSR",
    (
        flag("SCE", 0, "SYSCALL enabled"),
        flag("LME", 8, "long mode enabled"),
        flag("LMA", 10, "long mode active"),
        flag("NXE", 11, "NX bit enabled"),
        flag("SVME", 12, "SVM enabled"),
        flag("LMSLE", 13, "long-mode segment limits"),
        flag("FFXSR", 14, "fast FXSAVE"),
    ),
)
EFER_SCE: Final = EFER.mask("SCE")
EFER_LME: Final = EFER.mask("LME")
EFER_LMA: Final = EFER.mask("LMA")
EFER_NXE: Final = EFER.mask("NXE")

# --- Flags, error codes, debug registers ---------------------------------------------------

RFLAGS: Final = Layout(
    "RFLAGS",
    64,
    "Intel SDM 1 3.4.3",
    (
        flag("CF", 0, "carry"),
        flag("PF", 2, "parity"),
        flag("AF", 4, "auxiliary carry"),
        flag("ZF", 6, "zero"),
        flag("SF", 7, "sign"),
        flag("TF", 8, "trap after each instruction"),
        flag("IF", 9, "interrupts enabled"),
        flag("DF", 10, "string instructions go down"),
        flag("OF", 11, "overflow"),
        field("IOPL", 12, 2, "I/O privilege level"),
        flag("NT", 14, "nested task"),
        flag("RF", 16, "resume: no instruction breakpoint"),
        flag("VM", 17, "virtual-8086 mode"),
        flag("AC", 18, "alignment check; lifts SMAP"),
        flag("VIF", 19, "virtual interrupt flag"),
        flag("VIP", 20, "virtual interrupt pending"),
        flag("ID", 21, "CPUID available"),
    ),
    ones=1 << 1,
)
RFLAGS_FIXED: Final = RFLAGS.ones
RFLAGS_CF: Final = RFLAGS.mask("CF")
RFLAGS_PF: Final = RFLAGS.mask("PF")
RFLAGS_AF: Final = RFLAGS.mask("AF")
RFLAGS_ZF: Final = RFLAGS.mask("ZF")
RFLAGS_SF: Final = RFLAGS.mask("SF")
RFLAGS_TF: Final = RFLAGS.mask("TF")
RFLAGS_IF: Final = RFLAGS.mask("IF")
RFLAGS_DF: Final = RFLAGS.mask("DF")
RFLAGS_OF: Final = RFLAGS.mask("OF")
RFLAGS_IOPL: Final = RFLAGS.mask("IOPL")
RFLAGS_NT: Final = RFLAGS.mask("NT")
RFLAGS_RF: Final = RFLAGS.mask("RF")
RFLAGS_VM: Final = RFLAGS.mask("VM")
RFLAGS_AC: Final = RFLAGS.mask("AC")
RFLAGS_VIF: Final = RFLAGS.mask("VIF")
RFLAGS_VIP: Final = RFLAGS.mask("VIP")
RFLAGS_ID: Final = RFLAGS.mask("ID")

PF_ERROR: Final = Layout(
    "#PF error code",
    32,
    "Intel SDM 3A 4.7 figure 4-12",
    (
        flag("P", 0, "the page was present: rights or a reserved bit"),
        flag("W", 1, "write"),
        flag("U", 2, "user-mode access"),
        flag("RSVD", 3, "reserved bit set in an entry"),
        flag("I", 4, "instruction fetch"),
        flag("PK", 5, "protection key"),
        flag("SS", 6, "shadow-stack access"),
        flag("SGX", 15, "SGX access control"),
    ),
)
PF_P: Final = PF_ERROR.mask("P")
PF_W: Final = PF_ERROR.mask("W")
PF_U: Final = PF_ERROR.mask("U")
PF_RSVD: Final = PF_ERROR.mask("RSVD")
PF_I: Final = PF_ERROR.mask("I")
PF_PK: Final = PF_ERROR.mask("PK")

SELECTOR_ERROR: Final = Layout(
    "selector error code",
    32,
    "Intel SDM 3A 6.13 figure 6-7",
    (
        flag("EXT", 0, "caused by an external event"),
        flag("IDT", 1, "the index is a vector"),
        flag("TI", 2, "LDT; clear: GDT"),
        field("INDEX", 3, 13, "descriptor or vector number", show_zero=True),
    ),
)

DR6: Final = Layout(
    "DR6",
    64,
    "Intel SDM 3B 18.2.3",
    (
        flag("B0", 0, "breakpoint 0"),
        flag("B1", 1, "breakpoint 1"),
        flag("B2", 2, "breakpoint 2"),
        flag("B3", 3, "breakpoint 3"),
        flag("BD", 13, "debug register accessed under DR7.GD"),
        flag("BS", 14, "single step"),
        flag("BT", 15, "task switch"),
    ),
    ones=0xFFFF_0FF0,
)
DR6_BS: Final = DR6.mask("BS")

_DR7_TYPES: Final = {0: "execute", 1: "write", 2: "io", 3: "access"}
_DR7_LENGTHS: Final = {0: "1", 1: "2", 2: "8", 3: "4"}


def _breakpoint(number: int) -> tuple[Field, ...]:
    low = 16 + 4 * number
    return (
        flag(f"L{number}", 2 * number, f"breakpoint {number} armed, local"),
        flag(f"G{number}", 2 * number + 1, f"breakpoint {number} armed, global"),
        field(f"RW{number}", low, 2, f"breakpoint {number} fires on", names=_DR7_TYPES),
        field(f"LEN{number}", low + 2, 2, f"breakpoint {number} bytes", names=_DR7_LENGTHS),
    )


DR7: Final = Layout(
    "DR7",
    64,
    "Intel SDM 3B 18.2.4",
    (
        *(item for number in range(4) for item in _breakpoint(number)),
        flag("LE", 8, "exact, local"),
        flag("GE", 9, "exact, global"),
        flag("RTM", 11, "debugging of transactions"),
        flag("GD", 13, "debug registers guarded"),
    ),
    ones=1 << 10,
)

# --- Modes, levels, addresses --------------------------------------------------------------


class PagingMode(Enum):
    """How a linear address is translated; the value is the number of table levels.

    A 32-bit guest in compatibility mode of a 64-bit machine is walked with ``LEVELS4``: only
    its addresses are short.
    """

    OFF = 0
    PAE = 3
    LEVELS4 = 4
    LEVELS5 = 5

    @property
    def va_bits(self) -> int:
        """Significant bits of a linear address."""
        return _VA_BITS[self]


_VA_BITS: Final = {
    PagingMode.OFF: 32,
    PagingMode.PAE: 32,
    PagingMode.LEVELS4: 48,
    PagingMode.LEVELS5: 57,
}

LEVEL_SHIFT: Final = (0, 12, 21, 30, 39, 48)
"""By level, 1..5: log2 of the bytes that one entry covers."""
LEVEL_SIZE: Final = tuple(1 << shift for shift in LEVEL_SHIFT)
"""By level, 1..5: bytes that one entry covers."""
INDEX_MASK: Final = 0x1FF


def table_index(va: int, level: int) -> int:
    """Index, 0..511, of the entry that translates ``va`` in its table at ``level`` (1..5).

    For the top table of PAE paging, a 32-bit ``va`` gives 0..3 as it should.
    """
    return va >> LEVEL_SHIFT[level] & INDEX_MASK


def canonical(va: int, bits: int = 48) -> VA:
    """``va`` cut to ``bits`` bits and extended with its top bit (57 bits with LA57)."""
    sign = 1 << (bits - 1)
    low = va & ((1 << bits) - 1)
    return VA(((low ^ sign) - sign) & 0xFFFF_FFFF_FFFF_FFFF)


def va_from_indices(indices: Sequence[int], offset: int = 0) -> VA:
    """Canonical address reached through ``indices``, top table first, plus ``offset`` bytes.

    Four indices are a 4-level address, five a 5-level one, and three a PAE one (not extended).

    Raises:
        ValueError: another number of indices, an index outside its table, or an offset
            outside the page.
    """
    if not 3 <= len(indices) <= 5:
        raise ValueError(f"an address has 3, 4 or 5 indices, not {len(indices)}")
    if not 0 <= offset < LEVEL_SIZE[1]:
        raise ValueError(f"offset {offset:#x} is outside a 4 KiB page")
    mode = PagingMode(len(indices))
    va = 0
    for level, index in zip(range(mode.value, 0, -1), indices, strict=True):
        top = 3 if mode is PagingMode.PAE and level == 3 else INDEX_MASK
        if not 0 <= index <= top:
            raise ValueError(f"L{level} index {index:#x} is outside 0..{top:#x}")
        va |= index << LEVEL_SHIFT[level]
    va |= offset
    return VA(va) if mode is PagingMode.PAE else canonical(va, mode.va_bits)


def pte_mfn(entry: int) -> MFN:
    """Frame that an entry names. In a large-page entry the PAT bit (12) must be masked first."""
    return MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)


def make_pte(mfn: MFN, flags: int) -> int:
    """Entry for ``mfn`` with ``flags`` (PTE_* bits, outside the frame number).

    Raises:
        ValueError: the frame number does not fit, or ``flags`` reach into it.
    """
    address = mfn << PAGE_SHIFT
    if address & ~PTE_MFN_MASK or flags & PTE_MFN_MASK:
        raise ValueError(f"frame {mfn:#x} with flags {flags:#x} is not an entry")
    return address | flags


def is_leaf(entry: int, level: int, mode: PagingMode = PagingMode.LEVELS4) -> bool:
    """True if a present entry at ``level`` maps a page rather than naming a table."""
    if level == 1:
        return True
    large = level == 2 or (level == 3 and mode is not PagingMode.PAE)
    return large and bool(entry & PTE_PSE)


def layout_of(entry: int, level: int, mode: PagingMode = PagingMode.LEVELS4) -> Layout:
    """The layout by which the MMU reads a present ``entry`` of a table at ``level``."""
    if level == 1:
        return PTE
    if level >= 4:
        return L4E
    if mode is PagingMode.PAE and level == 3:
        return PAE_L3E
    if not entry & PTE_PSE:
        return TABLE_ENTRY
    return LARGE_L2E if level == 2 else LARGE_L3E


def reserved_mask(
    entry: int, level: int, mode: PagingMode = PagingMode.LEVELS4, *, nxe: bool = True
) -> int:
    """Bits that must be zero in a present ``entry`` at ``level``: any that is set faults."""
    mask = layout_of(entry, level, mode).reserved
    if mode is PagingMode.PAE:
        mask |= PTE_HIGH_IGNORED
    return mask if nxe else mask | PTE_NX


def describe_entry(entry: int, level: int, mode: PagingMode = PagingMode.LEVELS4) -> str:
    """One line naming every bit of an entry at ``level`` (1..5)."""
    if not entry & PTE_P:
        return "not present" if not entry else f"not present (software value {entry:#x})"
    return layout_of(entry, level, mode).describe(entry)
