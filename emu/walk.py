"""A software walk of the page tables that agrees with the MMU and explains itself.

``walk`` translates one linear address for one kind of access. Its answer keeps every entry
that it read, so that a debugger can show the path, and either the machine address or the fault
that the MMU would raise, with the error code that it would push. Nothing is written: the
accessed and dirty bits that the MMU would set are listed instead.

A translation fails because (``FaultReason``): the address is not canonical; an entry is not
present; a present entry has a reserved bit set; the page is the supervisor's; it is read-only;
it may not be executed; SMEP or SMAP forbids the supervisor to use a user's page; a protection
key denies the access. The first entry that is absent or malformed ends the walk; rights are
those of all levels together and are judged last.

Source: Intel SDM volume 3A, sections 4.4 to 4.8; PAE 4.4.1; protection keys 4.6.2.

Invariant: tables are read only through ``TableMemory``. A table outside memory reads as zero,
as in the emulator, and so ends in "not present".
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from emu.paging import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    LEVEL_SIZE,
    PF_ERROR,
    PF_I,
    PF_P,
    PF_PK,
    PF_RSVD,
    PF_U,
    PF_W,
    PTE,
    PTE_A,
    PTE_D,
    PTE_MFN_MASK,
    PTE_NX,
    PTE_P,
    PTE_RW,
    PTE_US,
    RFLAGS_AC,
    PagingMode,
    canonical,
    describe_entry,
    is_leaf,
    reserved_mask,
    table_index,
)
from emu.units import MA, MFN, VA, mfn_of

_GP: Final = 13
_PF: Final = 14
_PAE_TOP_MASK: Final = 0xFFFF_FFE0
"""Bits of CR3 that locate the four-entry top table of PAE paging (SDM 4.4.1)."""


class TableMemory(Protocol):
    """What the walk needs of machine memory; ``emu.memory.Memory`` is one."""

    @property
    def frames(self) -> int:
        """Number of 4 KiB frames."""

    def read_u64(self, address: MA) -> int:
        """The 64-bit word at ``address`` (8-byte aligned, inside memory)."""


@dataclass(frozen=True, slots=True)
class Access:
    """The kind of access: ``user`` is CPL 3, otherwise it is the supervisor's (CPL 0 to 2)."""

    write: bool = False
    user: bool = False
    fetch: bool = False

    def __post_init__(self) -> None:
        if self.write and self.fetch:
            raise ValueError("an access is a write or a fetch, not both")

    def __str__(self) -> str:
        kind = "write" if self.write else "fetch" if self.fetch else "read"
        return f"{'user' if self.user else 'supervisor'} {kind}"


READ: Final = Access()
WRITE: Final = Access(write=True)
FETCH: Final = Access(fetch=True)
USER_READ: Final = Access(user=True)
USER_WRITE: Final = Access(user=True, write=True)
USER_FETCH: Final = Access(user=True, fetch=True)


@dataclass(frozen=True, slots=True)
class Controls:
    """The register bits that decide about an access. The defaults are those of a PV guest."""

    mode: PagingMode = PagingMode.LEVELS4
    wp: bool = True
    """CR0.WP"""
    nxe: bool = True
    """EFER.NXE"""
    smep: bool = False
    """CR4.SMEP"""
    smap: bool = False
    """CR4.SMAP"""
    ac: bool = False
    """RFLAGS.AC; leave it clear for an implicit supervisor access (GDT, IDT, TSS)"""
    pke: bool = False
    """CR4.PKE"""
    pkru: int = 0

    @classmethod
    def from_registers(
        cls, cr0: int, cr4: int, efer: int, rflags: int = 0, pkru: int = 0
    ) -> "Controls":
        """The controls that these register values amount to.

        Raises:
            ValueError: 32-bit paging without PAE, which is not walked here.
        """
        if not cr0 & CR0_PG:
            mode = PagingMode.OFF
        elif not cr4 & CR4_PAE:
            raise ValueError("32-bit paging without PAE is not supported by the walk")
        elif not efer & EFER_LMA:
            mode = PagingMode.PAE
        else:
            mode = PagingMode.LEVELS5 if cr4 & CR4_LA57 else PagingMode.LEVELS4
        return cls(
            mode=mode,
            wp=bool(cr0 & CR0_WP),
            nxe=bool(efer & EFER_NXE),
            smep=bool(cr4 & CR4_SMEP),
            smap=bool(cr4 & CR4_SMAP),
            ac=bool(rflags & RFLAGS_AC),
            pke=bool(cr4 & CR4_PKE),
            pkru=pkru,
        )


PV_CONTROLS: Final = Controls()


class FaultReason(Enum):
    """Why a translation fails."""

    NON_CANONICAL = "non-canonical address"
    NOT_PRESENT = "not present"
    RESERVED = "reserved bit set"
    SUPERVISOR = "user access to a supervisor page"
    READ_ONLY = "write to a read-only page"
    NO_EXECUTE = "fetch from a no-execute page"
    SMEP = "supervisor fetch from a user page"
    SMAP = "supervisor access to a user page"
    PROTECTION_KEY = "protection key"


@dataclass(frozen=True, slots=True)
class Rights:
    """What all levels together allow, before CR0.WP, SMEP, SMAP and protection keys."""

    write: bool
    user: bool
    execute: bool

    def __str__(self) -> str:
        return f"r{'w' if self.write else '-'}{'x' if self.execute else '-'} " + (
            "user" if self.user else "supervisor"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One entry read on the way."""

    level: int
    table: MFN
    """Frame of the table."""
    index: int
    address: MA
    """Machine address of the entry, in bytes."""
    entry: int
    mode: PagingMode

    @property
    def description(self) -> str:
        """The entry with every bit named."""
        return describe_entry(self.entry, self.level, self.mode)

    @property
    def place(self) -> str:
        """Where the entry is, for sentences."""
        return f"L{self.level} entry {self.index:#x} of frame {self.table:#x}"


@dataclass(frozen=True, slots=True)
class Fault:
    """The exception that the MMU would raise."""

    reason: FaultReason
    vector: int
    """14 (#PF), or 13 (#GP) where no page fault is raised."""
    error_code: int
    """As the CPU would push it."""
    level: int
    """Level of the entry to blame; 0 if it is the address itself."""
    sentence: str

    def __str__(self) -> str:
        if self.vector == _GP:
            return f"#GP error {self.error_code:#x}: {self.sentence}"
        names = PF_ERROR.describe(self.error_code)
        bits = "" if names == "0" else f" ({names})"
        return f"#PF error {self.error_code:#x}{bits}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Walk:
    """The path of one translation and how it ended: exactly one of ``ma`` and ``fault`` is set."""

    va: VA
    cr3: int
    access: Access
    controls: Controls
    steps: tuple[Step, ...]
    ma: MA | None
    page_size: int
    """Bytes that the leaf entry maps; 0 if none was reached."""
    rights: Rights | None
    """Rights of all levels together; set as soon as a well-formed leaf was reached."""
    fault: Fault | None
    sets_accessed: tuple[MA, ...]
    """Addresses of the entries in which the MMU would turn A on, top level first."""
    sets_dirty: MA | None
    """Address of the entry in which the MMU would turn D on."""

    @property
    def mfn(self) -> MFN | None:
        """Frame reached."""
        return None if self.ma is None else mfn_of(self.ma)

    @property
    def leaf(self) -> Step | None:
        """The step that maps the page, also if rights are denied; None if none was reached."""
        return self.steps[-1] if self.steps and self.page_size else None

    def explain(self) -> str:
        """The whole walk as text: a line per level, and a last one with the result."""
        mode = self.controls.mode
        title = "no paging" if mode is PagingMode.OFF else f"{mode.name}, CR3 {self.cr3:#x}"
        lines = [f"walk of {self.va:#018x} ({self.access}; {title})"]
        for step in self.steps:
            lines.append(
                f"  L{step.level}[{step.index:#05x}] at {step.address:#x} (frame {step.table:#x})"
                f" = {step.entry:#018x}  {step.description}"
            )
        if self.fault is not None:
            lines.append(f"  => {self.fault}")
        elif self.ma is not None:
            line = f"  => machine address {self.ma:#x}, frame {mfn_of(self.ma):#x}"
            if self.rights is not None:
                line += f", {_size_text(self.page_size)} page, {self.rights}"
            lines.append(line)
        return "\n".join(lines)


def walk(
    memory: TableMemory,
    cr3: int,
    va: VA,
    *,
    access: Access = READ,
    controls: Controls = PV_CONTROLS,
) -> Walk:
    """Translate ``va`` (bytes) as the MMU would for ``access``, changing nothing.

    ``cr3`` is the register's value, flags included. Faults are part of the answer, none is
    raised. Follows the SDM; where Unicorn does not is listed in ``tests/emu/test_walk_vs_mmu.py``.
    """
    mode = controls.mode
    steps: list[Step] = []
    accessed: list[MA] = []

    def done(
        fault: Fault | None,
        ma: MA | None = None,
        size: int = 0,
        rights: Rights | None = None,
        dirty: MA | None = None,
    ) -> Walk:
        return Walk(
            va=va,
            cr3=cr3,
            access=access,
            controls=controls,
            steps=tuple(steps),
            ma=ma,
            page_size=size,
            rights=rights,
            fault=fault,
            sets_accessed=tuple(accessed),
            sets_dirty=dirty,
        )

    if not _is_translatable(va, mode):
        sentence = f"{va:#x} does not fit the {mode.va_bits}-bit linear addresses of {mode.name}"
        return done(Fault(FaultReason.NON_CANONICAL, _GP, 0, 0, sentence))
    if mode is PagingMode.OFF:
        return done(None, MA(va))

    base = cr3 & (_PAE_TOP_MASK if mode is PagingMode.PAE else PTE_MFN_MASK)
    level = mode.value
    while True:
        index = table_index(va, level)
        address = MA(base + index * 8)
        table = mfn_of(address)
        inside = table < memory.frames
        entry = memory.read_u64(address) if inside else 0
        step = Step(level, table, index, address, entry, mode)
        steps.append(step)
        if not entry & PTE_P:
            sentence = f"{step.place} is not present"
            if not inside:
                sentence += f": the table is outside memory ({memory.frames:#x} frames)"
            return done(_page_fault(FaultReason.NOT_PRESENT, step, sentence, access, controls))
        reserved = entry & reserved_mask(entry, level, mode, nxe=controls.nxe)
        if reserved:
            return done(_reserved_fault(step, reserved, access, controls))
        if is_leaf(entry, level, mode):
            break
        if not entry & PTE_A and not _is_pae_top(step) and address not in accessed:
            accessed.append(address)
        base = entry & PTE_MFN_MASK
        level -= 1

    size = LEVEL_SIZE[level]
    rights = _rights(steps)
    fault = _denied(steps, rights, access, controls)
    if fault is not None:
        return done(fault, size=size, rights=rights)
    if not entry & PTE_A and address not in accessed:
        accessed.append(address)
    dirty = address if access.write and not entry & PTE_D else None
    # The size's low bits hold flags and PAT in a large entry, so the page's own offset replaces
    # them rather than being added.
    ma = MA((entry & PTE_MFN_MASK & -size) | (va & (size - 1)))
    return done(None, ma, size, rights, dirty)


def _is_translatable(va: int, mode: PagingMode) -> bool:
    if mode.va_bits == 32:
        return 0 <= va < 1 << 32
    return va == canonical(va, mode.va_bits)


def _is_pae_top(step: Step) -> bool:
    """True for an entry of the PAE top table: no rights and no A bit (SDM table 4-8)."""
    return step.mode is PagingMode.PAE and step.level == 3


def _rights(steps: list[Step]) -> Rights:
    every = PTE_RW | PTE_US
    some = 0
    for step in steps:
        if not _is_pae_top(step):
            every &= step.entry
            some |= step.entry
    return Rights(bool(every & PTE_RW), bool(every & PTE_US), not some & PTE_NX)


def _denied(steps: list[Step], rights: Rights, access: Access, controls: Controls) -> Fault | None:
    """The fault if rights forbid the access to a mapped page (SDM 4.6.1 and 4.6.2)."""
    blame = [step for step in steps if not _is_pae_top(step)]
    leaf = blame[-1]
    data = not access.fetch
    key_denies = data and rights.user and _key_denies(leaf.entry, access, controls)
    extra = PF_PK if key_denies else 0

    def deny(reason: FaultReason, step: Step, why: str) -> Fault:
        return _page_fault(reason, step, f"{step.place} {why}", access, controls, PF_P | extra)

    if access.user and not rights.user:
        step = next(step for step in blame if not step.entry & PTE_US)
        return deny(FaultReason.SUPERVISOR, step, "is the supervisor's (US clear)")
    if access.write and not rights.write and (access.user or controls.wp):
        step = next(step for step in blame if not step.entry & PTE_RW)
        return deny(FaultReason.READ_ONLY, step, "is read-only (RW clear)")
    if access.fetch and not rights.execute:
        step = next(step for step in blame if step.entry & PTE_NX)
        return deny(FaultReason.NO_EXECUTE, step, "forbids execution (NX set)")
    if not access.user and rights.user:
        if access.fetch and controls.smep:
            return deny(FaultReason.SMEP, leaf, "maps a user page, which SMEP forbids to execute")
        if data and controls.smap and not controls.ac:
            return deny(FaultReason.SMAP, leaf, "maps a user page, which SMAP forbids to touch")
    if key_denies:
        key = PTE.get(leaf.entry, "PKEY")
        return deny(FaultReason.PROTECTION_KEY, leaf, f"has key {key}, which PKRU denies")
    return None


def _key_denies(entry: int, access: Access, controls: Controls) -> bool:
    """True if PKRU denies a data access to a user page that ``entry`` maps."""
    if not controls.pke or controls.mode is PagingMode.PAE:
        return False
    bits = controls.pkru >> 2 * PTE.get(entry, "PKEY")
    access_denied, write_denied = bits & 1, bits & 2
    return bool(access_denied or (write_denied and access.write and (access.user or controls.wp)))


def _reserved_fault(step: Step, reserved: int, access: Access, controls: Controls) -> Fault:
    names = "NX without EFER.NXE" if reserved == PTE_NX else f"{reserved:#x}"
    sentence = f"{step.place} has reserved bits set ({names})"
    if _is_pae_top(step):
        # The four entries are checked when they are loaded, so no access ever meets them.
        sentence += "; loading CR3 raises #GP"
        return Fault(FaultReason.RESERVED, _GP, 0, step.level, sentence)
    return _page_fault(FaultReason.RESERVED, step, sentence, access, controls, PF_P | PF_RSVD)


def _page_fault(
    reason: FaultReason,
    step: Step,
    sentence: str,
    access: Access,
    controls: Controls,
    cause: int = 0,
) -> Fault:
    """A #PF whose error code is ``cause`` plus what the access itself contributes (SDM 4.7)."""
    code = cause
    if access.write:
        code |= PF_W
    if access.user:
        code |= PF_U
    if access.fetch and (controls.nxe or controls.smep):
        code |= PF_I
    return Fault(reason, _PF, code, step.level, sentence)


def _size_text(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size >> 10} KiB"
