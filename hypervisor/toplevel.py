"""Address spaces of both widths: base pointers, what of the hypervisor is mapped, the way to an L1.

A 64-bit guest's L4 tables have 16 slots that are the hypervisor's: in them are the M2P, read-only,
and the domain's descriptor window. The guest may neither write them nor count on them.

A 32-bit guest has three levels of tables. Its L3 table, of which four entries count, hangs in slot
0 of an L4 that is the hypervisor's and hidden from it (``Domain.table``). Its kernel runs at CPL 1,
which to the MMU is the supervisor, so what the hypervisor must keep from it cannot be mapped at
all: the segment limits by which the real Xen helps itself do not exist in this engine. What is
mapped is the M2P, read-only, in the last slots of the L2 table of L3 slot 3. Such an L2 table
(``XEN_L2``) is in one slot 3 and nowhere else, so that those slots are never found at another
address. In the hidden L4 is, besides, the descriptor window, which the CPU reads and no 32-bit
address reaches.

Invariants: L3 slot 3 of a validated L3 table is present and never changed; what the page of an L3
table holds behind its four entries is zero, since in long mode the MMU would look at it.

Source: Xen's arch-x86/xen-x86_32.h and xen-x86_64.h (reserved ranges), xen.h (extended CR3); Intel
SDM volume 3A, 4.4.1 (PAE) and 4.5. Errnos are Xen 4.17's.
"""

from typing import TYPE_CHECKING, Final

from emu import Machine
from emu.paging import PTE_A, PTE_MFN_MASK, PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, MFN, PAGE_SHIFT
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START_PAE,
    L2_FIRST_XEN_SLOT_PAE,
    L3_ENTRIES_PAE,
    L3_XEN_SLOT_PAE,
    L4_FIRST_XEN_SLOT,
    L4_LAST_XEN_SLOT,
    MAX_L3_MFN_PAE,
    Errno,
    VmAssist,
    mfn_of_pae_cr3,
    pae_cr3,
)
from hypervisor.domain import Domain
from hypervisor.frames import XEN_L2, FrameTable, PageType

if TYPE_CHECKING:
    from collections.abc import Mapping

PERDOMAIN_SLOT: Final = 260
"""L4 slot of the per-domain window (Xen's PERDOMAIN_VIRT_START)."""
L3_PAE: Final = PTE_P | PTE_RW | PTE_US | PTE_A
"""What the hypervisor sets in an L3 entry of a 32-bit guest: in PAE mode these bits are reserved,
to the MMU in long mode they are rights that must be given."""

_NOT_THE_GUESTS: Final = 1 << 47
"""From here to ``HYPERVISOR_VIRT_END`` no linear address is a guest's, as in Xen."""
_WINDOW: Final = PTE_P | PTE_RW | PTE_US
_L2: Final = int(PageType.L2)
_L3: Final = int(PageType.L3)
_L4: Final = int(PageType.L4)
_NONE: Final = range(0)
_SLOTS_L4: Final = range(L4_FIRST_XEN_SLOT, L4_LAST_XEN_SLOT + 1)
_SLOTS_L2: Final = range(L2_FIRST_XEN_SLOT_PAE, ENTRIES)
_NO_ENTRIES: Final = memoryview(bytes(8 * (ENTRIES - L3_ENTRIES_PAE))).cast("Q")
_EXTENDED_CR3: Final = 1 << VmAssist.pae_extended_cr3
_EINVAL: Final = -int(Errno.EINVAL)
_EPERM: Final = -int(Errno.EPERM)
_ERANGE: Final = -int(Errno.ERANGE)


def not_the_guests(va: int) -> bool:
    """True for a linear address that no guest's data can have: not canonical, or Xen's own."""
    return _NOT_THE_GUESTS <= va < HYPERVISOR_VIRT_END


def top_level(domain: Domain) -> int:
    """Level of the tables that a domain's base pointer names."""
    return _L3 if domain.width == 32 else _L4


def cr3_of(domain: Domain) -> int:
    """The value of CR3 that a domain's kernel would read."""
    return pae_cr3(domain.l3) if domain.width == 32 else domain.table << PAGE_SHIFT


def mfn_of_cr3(domain: Domain, cr3: int) -> int:
    """The table that a domain's kernel names by writing ``cr3``."""
    return mfn_of_pae_cr3(cr3) if domain.width == 32 else cr3 >> PAGE_SHIFT


class TopLevel:
    """Base pointers and the hypervisor's slots.

    ``slots`` and ``slots_pae``: the entries that are the same in every domain of a width, by slot
    of the L4 table or of the L2 table of L3 slot 3.
    """

    def __init__(self, machine: Machine, frames: FrameTable) -> None:
        self._words = machine.memory.words
        self._coherence = machine.coherence
        self._frames = frames
        self.slots: Mapping[int, int] = {}
        self.slots_pae: Mapping[int, int] = {}

    # -- slots -----------------------------------------------------------------------------

    def reserved(self, mfn: MFN, level: int) -> range:
        """The entries of a table that are not the guest's."""
        if level == _L4:
            return _SLOTS_L4
        return _SLOTS_L2 if level == _L2 and self._frames.flags[mfn] & XEN_L2 else _NONE

    def refuse_update(self, mfn: MFN, level: int, index: int, domain: Domain) -> int:
        """The errno for an update of an entry that is not the guest's to change, or 0."""
        if index in self.reserved(mfn, level):
            return _EINVAL if level == _L4 else _EPERM
        if level == _L3 and domain.width == 32 and index >= L3_XEN_SLOT_PAE:
            return _EINVAL
        return 0

    def check(self, mfn: MFN, level: int, domain: Domain) -> int:
        """Before a frame becomes a table: may a 32-bit guest have one of that level there?

        Returns 0; -EINVAL for an L4 table, which it does not have; -ERANGE for an L3 table behind
        4 GiB, unless the guest knows extended CR3.
        """
        if domain.width == 64 or level < _L3:
            return 0
        if level != _L3:
            return _EINVAL
        if mfn >= MAX_L3_MFN_PAE and not domain.vm_assist & _EXTENDED_CR3:
            return _ERANGE
        first = mfn * ENTRIES + L3_ENTRIES_PAE
        self._words[first : mfn * ENTRIES + ENTRIES] = _NO_ENTRIES
        self._coherence.wrote(mfn)
        return 0

    def fill(self, mfn: MFN, level: int, domain: Domain) -> None:
        """A frame has become a table: write the entries that are the hypervisor's."""
        start = mfn * ENTRIES
        slots = self.slots if level == _L4 else self.slots_pae
        for index in self.reserved(mfn, level):
            self._words[start + index] = slots.get(index, 0)
        if level == _L4:
            self._words[start + PERDOMAIN_SLOT] = domain.window << PAGE_SHIFT | _WINDOW

    def hide(self, mfn: MFN, domain: Domain) -> None:
        """Make a frame of the hypervisor's the L4 table of a new 32-bit domain."""
        self._words[mfn * ENTRIES + PERDOMAIN_SLOT] = domain.window << PAGE_SHIFT | _WINDOW
        domain.table = domain.user_table = mfn

    # -- base pointers ---------------------------------------------------------------------

    @staticmethod
    def base(domain: Domain) -> MFN:
        """The top-level table of a domain's kernel, as the guest named it."""
        return domain.l3 if domain.width == 32 else domain.table

    def set_base(self, domain: Domain, mfn: MFN) -> None:
        """Point a domain's kernel at a top-level table whose references the caller holds."""
        if domain.width == 64:
            domain.table = mfn
            return
        domain.l3 = mfn
        self._words[domain.table * ENTRIES] = mfn << PAGE_SHIFT | L3_PAE

    # -- lookup ----------------------------------------------------------------------------

    def find_l1(self, domain: Domain, va: int) -> tuple[MFN, int, bool] | None:
        """The L1 table and index that map ``va`` in the domain's kernel address space.

        The third value is True if no other path of this address space leads to that table. None
        if an upper level is absent, or ``va`` is the hypervisor's or not canonical (whose entry
        would be that of another address, and the flush one of no address).
        """
        if _NOT_THE_GUESTS <= va < HYPERVISOR_VIRT_END:
            return None
        if domain.width == 32 and va >= HYPERVISOR_VIRT_START_PAE:
            return None
        words = self._words
        e4 = words[domain.table * ENTRIES + (va >> 39 & 511)]
        if not e4 & PTE_P:
            return None
        l3 = (e4 & PTE_MFN_MASK) >> PAGE_SHIFT
        e3 = words[l3 * ENTRIES + (va >> 30 & 511)]
        if not e3 & PTE_P:
            return None
        l2 = (e3 & PTE_MFN_MASK) >> PAGE_SHIFT
        e2 = words[l2 * ENTRIES + (va >> 21 & 511)]
        if not e2 & PTE_P:
            return None
        l1 = (e2 & PTE_MFN_MASK) >> PAGE_SHIFT
        frames = self._frames
        if frames.type[l1] != 1:
            return None  # reached through a linear mapping: not an L1 entry
        counts = frames.type_count
        only = counts[l1] == 1 and counts[l2] == 1 and (counts[l3] == 1 or domain.width == 32)
        return MFN(l1), va >> PAGE_SHIFT & 511, only
