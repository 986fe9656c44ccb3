"""Segment descriptors of a guest: what it may have, where they are, the GDT and LDT window.

The GDT of every domain lies at the same linear address, the start of the per-domain L4 slot: 14
pages that the guest gave with ``set_gdt``, then the hypervisor's page with the flat segments of the
ABI, then nothing. GDTR never changes. Pages not given show a page of zeros, whose descriptors are
not present, so that loading one is #GP(selector) and not a #PF in the hypervisor's range.

Behind it come the 16 pages of the LDT (``set_ldt``), which is memory of the guest's own: a page
enters the window when a selector in it is used, and only then becomes a descriptor page. The CPU's
fault in the window is how that is noticed (``ldt_fault``). All leave it, and are the guest's to
write again, when the guest sets another LDT or loads another base pointer. (A Xen built with
PV_LDT_PAGING also drops them when a read-only mapping of one goes; Debian's 4.17 is not.)

Invariants: a frame in the window has type ``SEG_DESC``, so that no guest can write it; every
descriptor in such a frame passed ``check_descriptor``; what passes has DPL 3 (code and data) or
is harmless. The window's entries are for the supervisor only, and writable, because the CPU
sets the Accessed bit of a descriptor that it loads.

Source: Intel SDM volume 3A, 3.4.5 and 3.5; volume 2, IRET and MOV to a segment register;
xen/arch-x86/xen-x86_64.h (FLAT_*). What Xen 4.17 lets pass was read in its descriptor checks.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from emu.cpu import CODE64, DATA
from emu.descriptors import (
    GATE,
    SEGMENT,
    SEGMENT_ACCESSED,
    SEGMENT_ATTRIBUTES,
    SEGMENT_CODE,
    SEGMENT_CONFORMING,
    SEGMENT_DB,
    SEGMENT_DPL,
    SEGMENT_G,
    SEGMENT_L,
    SEGMENT_P,
    SEGMENT_RW,
    SEGMENT_S,
    SYSTEM_SEGMENT,
)
from emu.paging import PTE_A, PTE_D, PTE_MFN_MASK, PTE_NX, PTE_P, PTE_RW
from emu.trap import GP, NP, SS
from emu.units import ENTRIES, MFN, PAGE_SHIFT, VA, is_canonical
from hypervisor.abi import (
    FIRST_RESERVED_GDT_BYTE,
    FIRST_RESERVED_GDT_ENTRY,
    FIRST_RESERVED_GDT_PAGE,
    HYPERVISOR_VIRT_START_PAE,
    Errno,
    Flat32,
    Flat64,
    Width,
)
from hypervisor.domain import Domain
from hypervisor.frames import PageType
from hypervisor.toplevel import PERDOMAIN_SLOT

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

GDT_BASE: Final = VA(0xFFFF_0000_0000_0000 | PERDOMAIN_SLOT << 39)
"""Linear address of every domain's GDT."""
GDT_LIMIT: Final = 0xFFFF
"""All 16 pages; how many descriptors the guest announced makes no difference, as in Xen."""

LDT_BASE: Final = VA(GDT_BASE + GDT_LIMIT + 1)
"""Linear address of every domain's LDT."""
MAX_LDT_ENTRIES: Final = 8192
_LDT_SELECTOR: Final = FIRST_RESERVED_GDT_BYTE + 10 * 8
"""What SLDT shows where there is an LDT: Xen's own descriptor of it."""
_LDT_FIRST: Final = 16
"""Number of the LDT's first page in the window."""

_CALL_GATE: Final = 0xC
_GATE_ZEROS: Final[dict[Width, int]] = {64: 0xFF, 32: 0xE0}
"""Bits of a call gate's upper half that are reserved; a 32-bit one has a count of parameters."""

RING3_CS64: Final = CODE64 << 32 | 0xFFFF
RING3_DS: Final = DATA << 32 | 0xFFFF
RING3_CS32: Final = RING3_DS | SEGMENT_CODE
_RING1: Final = SEGMENT.encode(DPL=1) | ~SEGMENT_DPL
RING1_CS: Final = RING3_CS32 & _RING1
RING1_DS: Final = RING3_DS & _RING1

_FLAT: Final[dict[Width, dict[int, int]]] = {
    64: {
        Flat64.RING3_CS32: RING3_CS32,
        Flat64.RING3_SS64: RING3_DS,
        Flat64.RING3_CS64: RING3_CS64,
    },
    32: {
        Flat32.RING1_CS: RING1_CS,
        Flat32.RING1_DS: RING1_DS,
        Flat32.RING3_CS: RING3_CS32,
        Flat32.RING3_DS: RING3_DS,
    },
}
"""The flat segments of the ABI by selector. The widths' selectors collide, so that there is a page
of them for each."""

_PAGE: Final = PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX
_ZERO_PAGE: Final = PTE_P | PTE_A | PTE_NX
_EINVAL: Final = -int(Errno.EINVAL)
_SEG_DESC: Final = int(PageType.SEG_DESC)
_TABLE_INDICATOR: Final = 4
_WORK_PER_PAGE: Final = 128
"""To check a page that becomes one of descriptors is as much work as to check a page table."""


class SegmentFault(NamedTuple):
    """The exception that loading a selector raises."""

    vector: int
    error: int


class Segment(NamedTuple):
    """What a segment register's hidden part gets from a descriptor; ``limit`` in bytes."""

    selector: int
    attributes: int
    base: int
    limit: int


def unpack_segment(selector: int, descriptor: int) -> Segment:
    """The hidden part that loading this code or data descriptor gives."""
    base, limit = SEGMENT.get(descriptor, "BASE"), SEGMENT.get(descriptor, "LIMIT")
    if descriptor & SEGMENT_G:
        limit = limit << 12 | 0xFFF
    attributes = (descriptor & SEGMENT_ATTRIBUTES | SEGMENT_ACCESSED) >> 32
    return Segment(selector, attributes, base, limit)


def fix_selector(selector: int, width: Width) -> int:
    """A selector for a guest's kernel: its RPL is at least the ring that the kernel runs in."""
    if width == 64:
        return selector | 3
    return selector if selector & 3 else selector | 1


def gate_selector_okay(selector: int, width: Width) -> bool:
    """True if a gate to this code selector cannot reach a segment of the hypervisor's own."""
    return (
        selector >> 3 < FIRST_RESERVED_GDT_ENTRY
        or selector == (Flat64.KERNEL_CS if width == 64 else Flat32.KERNEL_CS)
        or bool(selector & 4)
    )


def check_descriptor(descriptor: int, width: Width) -> int | None:
    """The descriptor as a guest may have it, or None if it may not have it at all.

    Code and data segments get the DPL of the guest's kernel at least: 3 for a 64-bit one, 1 for a
    32-bit one. A 32-bit guest may not have 64-bit code, which would reach the hypervisor's
    addresses; and a flat segment of its that ends within or behind the hypervisor's range is
    extended to 4 GiB, as Xen does for old Linux kernels. A call gate gets DPL 0, so that using it
    is a #GP that names it: ``hypervisor.callgate`` carries it out for a 32-bit guest, as Xen does.
    """
    if not descriptor & SEGMENT_P:
        return descriptor
    kind = SYSTEM_SEGMENT.get(descriptor, "TYPE")
    if descriptor & SEGMENT_S or kind == 0:
        if width == 64:
            return descriptor | SEGMENT_DPL
        if not descriptor & SEGMENT_DPL:
            descriptor |= SEGMENT.encode(DPL=1)
        return _flat_to_the_end(descriptor) if descriptor & SEGMENT_S else descriptor
    target = GATE.get(descriptor, "SELECTOR")
    if kind != _CALL_GATE or not gate_selector_okay(target, width):
        return None
    if descriptor >> 32 & _GATE_ZEROS[width]:
        return None
    # Its own DPL is kept where it is of no use otherwise, as Xen keeps it: in the target's RPL.
    ring = fix_selector(GATE.get(descriptor, "DPL"), width)
    kept = GATE.encode(SELECTOR=target & ~3 | ring & 3)
    return descriptor & ~(SEGMENT_DPL | GATE.mask("SELECTOR")) | kept


def _flat_to_the_end(descriptor: int) -> int | None:
    if descriptor & SEGMENT_L:
        return None
    size = SEGMENT.get(descriptor, "LIMIT") + 1
    if descriptor & SEGMENT_G:
        size <<= 12
    if SEGMENT.get(descriptor, "BASE") == 0 and size > HYPERVISOR_VIRT_START_PAE:
        descriptor |= SEGMENT.mask("LIMIT")
    return descriptor


class Descriptors:
    """The GDT window of every domain, and lookups in it as the CPU would do them."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._words = hv.machine.memory.words
        self._frames = hv.frames
        self._flat: dict[Width, MFN] = {}
        self._zero = hv.frames.hypervisor_frame()
        for width, segments in _FLAT.items():
            self._flat[width] = frame = hv.frames.hypervisor_frame()
            for selector, descriptor in segments.items():
                at = frame * ENTRIES + (selector - FIRST_RESERVED_GDT_BYTE >> 3)
                self._words[at] = descriptor
        hv.machine.cpu.set_descriptor_table(GDT_BASE, GDT_LIMIT)

    # -- the window ------------------------------------------------------------------------

    def _entry(self, domain: Domain, page: int, mfn: MFN, flags: int) -> None:
        self._words[domain.window_l1 * ENTRIES + page] = mfn << PAGE_SHIFT | flags

    def init_window(self, domain: Domain) -> None:
        """Fill a new domain's window: the hypervisor's page, and no guest pages."""
        for page in range(16):
            self._entry(domain, page, self._zero, _ZERO_PAGE)
        self._entry(domain, FIRST_RESERVED_GDT_PAGE, self._flat[domain.width], _PAGE)

    def drop(self, domain: Domain) -> None:
        """Give back the references on all of the guest's descriptor pages."""
        self._drop_gdt(domain)
        self.drop_ldt(domain)
        domain.ldt_entries = 0

    def _drop_gdt(self, domain: Domain) -> None:
        frames, domain.gdt_frames, domain.gdt_entries = domain.gdt_frames, (), 0
        for page, mfn in enumerate(frames):
            self._entry(domain, page, self._zero, _ZERO_PAGE)
            self._hv.paging.put_type(mfn, domain)
            self._hv.paging.put_ref(mfn)
        if frames:
            self._hv.machine.coherence.flush()

    def set_gdt(self, domain: Domain, mfns: list[int], entries: int) -> int:
        """Replace a domain's GDT. Returns 0, or -EINVAL with the old one still in place."""
        paging = self._hv.paging
        taken: list[MFN] = []
        for mfn in mfns:
            if not self._take(domain, mfn):
                for done in reversed(taken):
                    paging.put_type(done, domain)
                    paging.put_ref(done)
                return _EINVAL
            taken.append(MFN(mfn))
        self._drop_gdt(domain)
        domain.gdt_frames, domain.gdt_entries = tuple(taken), entries
        for page, frame in enumerate(taken):
            self._entry(domain, page, frame, _PAGE)
        self._hv.machine.coherence.flush()
        return 0

    def _take(self, domain: Domain, mfn: int) -> bool:
        """Take both references on a page of descriptors, checking them if it becomes one."""
        paging, frames = self._hv.paging, self._frames
        if not paging.get_owned(mfn, domain):
            return False
        frame = MFN(mfn)
        fresh = not frames.type_count[frame]
        if paging.get_type(frame, _SEG_DESC, domain):
            paging.put_ref(frame)
            return False
        if not fresh:
            return True
        self._hv.spend(_WORK_PER_PAGE)
        at = frame * ENTRIES
        good: list[int] = []
        for value in self._words[at : at + ENTRIES].tolist():
            checked = check_descriptor(value, domain.width)
            if checked is None:
                paging.put_type(frame, domain)
                paging.put_ref(frame)
                return False
            good.append(checked)
        for index, value in enumerate(good):
            self._words[at + index] = value
        self._hv.machine.coherence.wrote(frame)
        return True

    # -- the LDT ---------------------------------------------------------------------------

    def set_ldt(self, domain: Domain, base: VA, entries: int) -> None:
        """The domain that runs has ``entries`` descriptors at its linear address ``base``."""
        if not entries:
            base = VA(0)
        if (base, entries) == (domain.ldt_base, domain.ldt_entries):
            return
        self.drop_ldt(domain)
        domain.ldt_base, domain.ldt_entries = base, entries
        cpu = self._hv.machine.cpu
        if entries:
            cpu.set_local_table(_LDT_SELECTOR, LDT_BASE, entries * 8 - 1)
        else:
            cpu.set_local_table(0, VA(0), 0)

    def drop_ldt(self, domain: Domain) -> None:
        """Take the LDT's pages out of the window; those that are used again come back."""
        frames, domain.ldt_frames = domain.ldt_frames, {}
        for page, mfn in frames.items():
            self._words[domain.window_l1 * ENTRIES + _LDT_FIRST + page] = 0
            self._hv.paging.put_type(mfn, domain)
            self._hv.paging.put_ref(mfn)
        if frames:
            self._hv.machine.coherence.flush()

    def ldt_fault(self, domain: Domain, address: int, error: int) -> bool:
        """The CPU did not find a descriptor in the window. True if that was dealt with.

        Either the page is there now and the instruction can run again, or the guest has a fault at
        the address in its own memory.
        """
        offset = address - LDT_BASE
        if not 0 <= offset < domain.ldt_entries * 8:
            return False
        if not self._map_ldt(domain, offset >> PAGE_SHIFT):
            traps = self._hv.traps
            where = domain.ldt_base + offset
            if is_canonical(where):
                self._hv.machine.cpu.cr2 = where
                traps.page_fault(domain, where, error)
            else:
                traps.exception(domain, GP, offset & 0xFFF8 | _TABLE_INDICATOR)
        return True

    def _map_ldt(self, domain: Domain, page: int) -> bool:
        """Bring a page of the LDT into the window; False if the guest has no such page."""
        if page in domain.ldt_frames:
            return True
        found = self._hv.paging.find_l1(domain, domain.ldt_base + (page << PAGE_SHIFT))
        if found is None:
            return False
        entry = self._hv.paging.entry(found[0], found[1])
        mfn = MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        if not entry & PTE_P or not self._take(domain, mfn):
            return False
        domain.ldt_frames[page] = mfn
        self._entry(domain, _LDT_FIRST + page, mfn, _PAGE)
        return True

    # -- lookups ---------------------------------------------------------------------------

    def find(self, domain: Domain, selector: int) -> int:
        """The descriptor that a selector names; 0 (not present) where there is none."""
        at = self._place(domain, selector)
        return 0 if at is None else self._words[at]

    def _place(self, domain: Domain, selector: int) -> int | None:
        """Index of the descriptor in machine memory's words."""
        if selector & _TABLE_INDICATOR:
            page, index = selector >> 12, selector >> 3 & 511
            if selector >> 3 >= domain.ldt_entries or not self._map_ldt(domain, page):
                return None
            return domain.ldt_frames[page] * ENTRIES + index
        page, index = selector >> 12, selector >> 3 & 511
        if page == FIRST_RESERVED_GDT_PAGE:
            return self._flat[domain.width] * ENTRIES + index
        if page < len(domain.gdt_frames):
            return domain.gdt_frames[page] * ENTRIES + index
        return None

    def _accessed(self, domain: Domain, selector: int) -> None:
        at = self._place(domain, selector)
        if at is not None:
            self._words[at] |= SEGMENT_ACCESSED

    def code_and_stack(
        self, domain: Domain, cs: int, ss: int, rip: int
    ) -> tuple[Segment, Segment] | SegmentFault:
        """The segments that IRET to an outer ring would load, or how it would fault.

        Both selectors have the RPL of that ring: 3, or 1 for a 32-bit guest's kernel.
        """
        code, stack = self.find(domain, cs), self.find(domain, ss)
        ring = SEGMENT.encode(DPL=cs & 3)
        for selector in (cs, ss):
            if selector & ~3 == 0:
                return SegmentFault(GP, 0)
        conforming = bool(code & SEGMENT_CONFORMING)
        if code & (SEGMENT_S | SEGMENT_CODE) != SEGMENT_S | SEGMENT_CODE or (
            code & SEGMENT_L and code & SEGMENT_DB
        ):
            return SegmentFault(GP, cs & ~3)
        if code & SEGMENT_DPL > ring if conforming else code & SEGMENT_DPL != ring:
            return SegmentFault(GP, cs & ~3)
        if not code & SEGMENT_P:
            return SegmentFault(NP, cs & ~3)
        need = SEGMENT_S | SEGMENT_RW
        if stack & need != need or stack & SEGMENT_CODE or stack & SEGMENT_DPL != ring:
            return SegmentFault(GP, ss & ~3)
        if not stack & SEGMENT_P:
            return SegmentFault(SS, ss & ~3)
        if not is_canonical(rip) if code & SEGMENT_L else rip >> 32:
            return SegmentFault(GP, 0)
        self._accessed(domain, cs)
        self._accessed(domain, ss)
        # The engine knows the ring by the DPL in the hidden part (a conforming segment's is lower).
        return unpack_segment(cs, code & ~SEGMENT_DPL | ring), unpack_segment(ss, stack)

    def data(self, domain: Domain, selector: int) -> Segment | None:
        """What ``mov`` to FS or GS in ring 3 would load, or None if it would fault."""
        descriptor = self.find(domain, selector)
        if descriptor & (SEGMENT_P | SEGMENT_S) != SEGMENT_P | SEGMENT_S:
            return None
        if descriptor & SEGMENT_CODE and not descriptor & SEGMENT_RW:
            return None
        conforming = descriptor & SEGMENT_CODE and descriptor & SEGMENT_CONFORMING
        if not conforming and descriptor & SEGMENT_DPL != SEGMENT_DPL:
            return None
        self._accessed(domain, selector)
        return unpack_segment(selector, descriptor)
