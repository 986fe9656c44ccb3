"""Direct paging: a guest's own tables are the MMU's, and every entry in them was checked.

A frame becomes a page table by being validated: all its entries are legal and each takes the
references that it implies (``get_l1e``, ``get_table_entry``). From then on the guest cannot write
it; every change comes through ``update_entry``, which takes the new entry's references, stores it,
and drops the old one's. When the last type reference goes, all entries give theirs back.

Invariants kept here (numbers from the audit): a present entry of a validated table holds one
reference on its frame (1); a writable entry also holds the ``WRITABLE`` type, which excludes page
tables and shared frames (2); after an update that takes rights away the TLB is flushed (6).

How an update can fail is Xen's: see the errno at each ``return``. Nothing is changed on failure.

Where rights are taken away the TLB is flushed at once, whether or not the guest asked: a guest
that forgets to flush may then see an update sooner than on hardware, never later than it should.

Source: Intel SDM volume 3A, 4.5; Xen's documentation of PV memory (docs/misc/pv-linear-pt and
the public headers xen.h, arch-x86/xen-x86_64.h). Adjusted bits of 64-bit guests' entries: kernel
and user both run at CPL 3, so US is always set; a software bit remembers what the guest asked.
A 32-bit guest's kernel runs at CPL 1, the supervisor to the MMU: US in its L1 and L2 entries is its
own. What is special about top-level tables is in ``hypervisor.toplevel``.
"""

from typing import TYPE_CHECKING, Final

from emu import Machine
from emu.paging import (
    PTE_A,
    PTE_AVL,
    PTE_D,
    PTE_G,
    PTE_HIGH_IGNORED,
    PTE_MFN_MASK,
    PTE_NX,
    PTE_P,
    PTE_RW,
    PTE_US,
)
from emu.units import ENTRIES, MFN, PAGE_SHIFT, VA
from hypervisor.abi import (
    L3_XEN_SLOT_PAE,
    DomId,
    Errno,
)
from hypervisor.domain import Domain
from hypervisor.errors import HypervisorError
from hypervisor.frames import (
    ALLOCATED,
    PINNED,
    VALIDATED,
    XEN_HEAP,
    XEN_L2,
    FrameTable,
    PageType,
)
from hypervisor.toplevel import L3_PAE, TopLevel

if TYPE_CHECKING:
    from hypervisor.sharing import Sharing

GUEST_KERNEL: Final = 1 << 52
"""Software bit that Xen sets in an L1 entry that the guest meant for its kernel only."""
_FREE_BITS: Final = PTE_US | PTE_A | PTE_D | PTE_AVL | PTE_HIGH_IGNORED | PTE_NX
_DISALLOWED: Final = ~(_FREE_BITS | PTE_P | PTE_RW | PTE_MFN_MASK) & ((1 << 64) - 1)
GRANT: Final = 1 << 62
"""Software bit of an L1 entry that maps a grant: Xen's alone to set."""
_L3_PAE_DISALLOWED: Final = _DISALLOWED | PTE_HIGH_IGNORED | PTE_NX
_L1_DISALLOWED: Final = (_DISALLOWED | GRANT) & ~PTE_G
_ADDRESS: Final = (1 << 52) - (1 << PAGE_SHIFT)
_BEYOND: Final = _ADDRESS & ~PTE_MFN_MASK
"""Address bits that this CPU does not have: no illegal bits, but a frame that is not there."""
_SAME_RIGHTS: Final = _FREE_BITS | PTE_G
"""Bits that may change without another look at the frame."""

_COW: Final = int(DomId.COW)
_WRITABLE: Final = int(PageType.WRITABLE)
_L2: Final = int(PageType.L2)
_L3: Final = int(PageType.L3)
_L4: Final = int(PageType.L4)
_EINVAL: Final = -int(Errno.EINVAL)
_EBUSY: Final = -int(Errno.EBUSY)
_EPERM: Final = -int(Errno.EPERM)


class Paging:
    """Validation, references and updates of page tables, over the frame table."""

    def __init__(self, machine: Machine, frames: FrameTable) -> None:
        self._machine = machine
        self._words = machine.memory.words
        self._coherence = machine.coherence
        self.frames = frames
        self.top = TopLevel(machine, frames)
        self.find_l1 = self.top.find_l1
        self.sharing: Sharing
        """Set by ``Sharing`` itself: shared frames' references are its business."""
        self.walked = 0
        """Whole tables that were validated or invalidated: what a single update may cost."""
        self.domains: dict[int, Domain] = {}
        """The hypervisor's own record of domains, to count the pages that they have."""

    # -- references ------------------------------------------------------------------------

    def put_ref(self, mfn: MFN) -> None:
        """Drop one general reference; the frame is freed if it was the last of an unowned one."""
        frames = self.frames
        left = frames.refs[mfn] - 1
        if left < 0:
            raise HypervisorError(f"frame {mfn:#x} loses a reference that it does not have")
        frames.refs[mfn] = left
        if left == 0 and not frames.flags[mfn] & (ALLOCATED | XEN_HEAP):
            self.free(mfn)

    def free(self, mfn: MFN) -> None:
        """A domain's frame that nothing refers to goes back to the heap.

        Only now does it stop to count as one of the domain's pages: one that was given back but is
        still mapped would otherwise be memory beyond ``max_pages``.
        """
        holder = self.domains.get(self.frames.owner[mfn])
        if holder is not None:
            holder.pages -= 1
        self.frames.release(mfn)

    def get_type(self, mfn: MFN, kind: int, domain: Domain, xen_l2: bool = False) -> int:
        """Take a type reference on a frame of ``domain``, validating it if it becomes a table.

        ``xen_l2``: for an L2 table, that it is to be the one with the hypervisor's slots.

        Returns 0, -EINVAL if it is in use as something else, or what its first bad entry gives.
        """
        frames = self.frames
        if frames.type_count[mfn]:
            if frames.type[mfn] != kind:
                return _EINVAL
            if kind == _L2 and bool(frames.flags[mfn] & XEN_L2) != xen_l2:
                return _EINVAL
            if kind <= _L4 and not frames.flags[mfn] & VALIDATED:
                return _EINVAL  # its own validation is under way: a cycle
            frames.type_count[mfn] += 1
            return 0
        frames.type[mfn] = kind
        frames.type_count[mfn] = 1
        if kind <= _L4:
            if xen_l2:
                frames.flags[mfn] |= XEN_L2
            answer = self._validate(mfn, kind, domain)
            if answer:
                frames.type_count[mfn] = 0
                frames.type[mfn] = 0
                frames.flags[mfn] &= ~XEN_L2
                return answer
            frames.flags[mfn] |= VALIDATED
        return 0

    def put_type(self, mfn: MFN, domain: Domain) -> None:
        """Drop a type reference; the last one on a table gives back all that its entries hold."""
        frames = self.frames
        left = frames.type_count[mfn] - 1
        if left < 0:
            raise HypervisorError(f"frame {mfn:#x} loses a type reference that it does not have")
        if left == 0 and frames.type[mfn] <= _L4 and frames.flags[mfn] & VALIDATED:
            self._invalidate(mfn, frames.type[mfn], domain)
        frames.type_count[mfn] = left

    def get_owned(self, mfn: int, domain: Domain) -> bool:
        """Take a general reference if the frame exists and belongs to ``domain``."""
        frames = self.frames
        if not 0 <= mfn < frames.total or frames.owner[mfn] != domain.id:
            return False
        frames.refs[mfn] += 1
        return True

    def get_table(self, mfn: int, level: int, domain: Domain, xen_l2: bool = False) -> int:
        """Take both references on a table of ``level``. Returns 0, -EINVAL, or as ``get_type``."""
        if not self.get_owned(mfn, domain):
            return _EINVAL
        frame = MFN(mfn)
        answer = self.get_type(frame, level, domain, xen_l2)
        if answer:
            self.put_ref(frame)
        return answer

    def put_table(self, mfn: MFN, domain: Domain) -> None:
        """Give back what ``get_table`` took."""
        self.put_type(mfn, domain)
        self.put_ref(mfn)

    # -- entries ---------------------------------------------------------------------------

    def get_l1e(
        self,
        entry: int,
        domain: Domain,
        owner: int | None = None,
        manager: Domain | None = None,
    ) -> int:
        """Take the references of an L1 entry; ``owner`` is whose frames may be mapped.

        ``manager``: who asks, if it is not the domain itself: its whole group may then map what
        one of them does.

        Returns 0; -EINVAL for illegal bits or a frame number of all ones; -EPERM for a frame that
        the machine does not have; -EBUSY if the frame is another's or is of another type.
        """
        if not entry & PTE_P:
            return 0
        if entry & _L1_DISALLOWED:
            no_such = not entry & _L1_DISALLOWED & ~_BEYOND and entry & _ADDRESS != _ADDRESS
            return _EPERM if no_such else _EINVAL
        frames = self.frames
        mfn = (entry & PTE_MFN_MASK) >> PAGE_SHIFT
        if mfn >= frames.total:
            return _EPERM
        holder = frames.owner[mfn]
        if holder == _COW:
            return self.sharing.map_again(MFN(mfn), bool(entry & PTE_RW), domain, manager)
        if holder != (domain.id if owner is None else owner):
            return _EBUSY
        if entry & PTE_RW:
            if frames.type_count[mfn]:
                if frames.type[mfn] != _WRITABLE:
                    return _EBUSY
            else:
                frames.type[mfn] = _WRITABLE
            frames.type_count[mfn] += 1
        frames.refs[mfn] += 1
        return 0

    def put_l1e(self, entry: int, domain: Domain) -> None:
        """Give back the references of an L1 entry of one of ``domain``'s tables."""
        if not entry & PTE_P:
            return
        mfn = MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        frames = self.frames
        if frames.owner[mfn] == _COW:
            self.sharing.unmap(mfn, domain)
            return
        if entry & PTE_RW:
            self.put_type(mfn, domain)
        self.put_ref(mfn)

    def _get_table_entry(
        self, entry: int, table: MFN, level: int, domain: Domain, index: int
    ) -> int:
        """Take the references of an entry of an L2..L4 table ``table``. Returns 0 or an errno."""
        if level == _L3 and domain.width == 32:
            return self._get_l3e_pae(entry, index, domain)
        if not entry & PTE_P:
            return 0
        if entry & _DISALLOWED:
            return _EINVAL
        mfn = (entry & PTE_MFN_MASK) >> PAGE_SHIFT
        answer = self.get_table(mfn, level - 1, domain)
        if answer == _EINVAL and self._is_table(mfn, level, domain):
            return self._get_linear(entry, table, MFN(mfn), level, domain)
        return answer

    def _get_l3e_pae(self, entry: int, index: int, domain: Domain) -> int:
        """The same for an L3 entry of a 32-bit guest."""
        last = index == L3_XEN_SLOT_PAE
        if not entry & PTE_P:
            return _EINVAL if last else 0
        if entry & _L3_PAE_DISALLOWED:
            return _EINVAL
        mfn = MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        answer = self.get_table(mfn, _L2, domain, xen_l2=last)
        if not answer and last and self.frames.type_count[mfn] != 1:
            self.put_table(mfn, domain)
            return _EINVAL  # in another L3 table's slot 3 already
        return answer

    def _is_table(self, mfn: int, level: int, domain: Domain) -> bool:
        frames = self.frames
        return (
            0 <= mfn < frames.total
            and frames.owner[mfn] == domain.id
            and frames.type[mfn] == level
            and frames.type_count[mfn] > 0
        )

    def _get_linear(self, entry: int, table: MFN, mfn: MFN, level: int, domain: Domain) -> int:
        """A read-only entry that maps a table of its own level, itself included.

        Itself takes no reference (it would keep itself alive). Another table must be validated,
        and of the two one side only may be linear, so that dropping them never recurses far.
        """
        if entry & PTE_RW:
            return _EINVAL
        if mfn == table:
            return 0
        frames = self.frames
        if not frames.flags[mfn] & VALIDATED or level < 2:
            return _EINVAL
        if frames.linear[table] < 0 or frames.linear[mfn] > 0:
            return _EINVAL
        frames.refs[mfn] += 1
        frames.type_count[mfn] += 1
        frames.linear[table] += 1
        frames.linear[mfn] -= 1
        return 0

    def _put_table_entry(self, entry: int, table: MFN, level: int, domain: Domain) -> None:
        if not entry & PTE_P:
            return
        mfn = MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        if mfn == table:
            return
        frames = self.frames
        if frames.type[mfn] == level:
            frames.linear[table] -= 1
            frames.linear[mfn] += 1
        self.put_type(mfn, domain)
        self.put_ref(mfn)

    @staticmethod
    def _adjust(entry: int, level: int, domain: Domain) -> int:
        """What is stored for an accepted entry."""
        if not entry & PTE_P:
            return entry
        if domain.width == 32:
            return entry | L3_PAE if level == _L3 else entry
        if level > 1:
            return entry | PTE_US
        if not entry & PTE_US:
            return entry | PTE_US | GUEST_KERNEL
        return entry if entry & GUEST_KERNEL else entry | PTE_G

    # -- whole tables ----------------------------------------------------------------------

    def _validate(self, mfn: MFN, level: int, domain: Domain) -> int:
        """Check a frame's entries and take what they imply; all or nothing."""
        self.walked += 1
        words = self._words
        start = mfn * ENTRIES
        pae_l3 = level == _L3 and domain.width == 32
        answer = self.top.check(mfn, level, domain)
        if answer:
            return answer
        values = words[start : start + ENTRIES].tolist()
        xen_slots = self.top.reserved(mfn, level)
        done: list[tuple[int, int]] = []
        for index, value in enumerate(values):
            if index in xen_slots:
                continue
            if not value & PTE_P and not (pae_l3 and index == L3_XEN_SLOT_PAE):
                continue
            if level == 1:
                answer = self.get_l1e(value, domain)
            else:
                answer = self._get_table_entry(value, mfn, level, domain, index)
            if answer:
                break
            done.append((index, value))
        if answer:
            for _, value in reversed(done):
                if level == 1:
                    self.put_l1e(value, domain)
                else:
                    self._put_table_entry(value, mfn, level, domain)
            return answer
        for index, value in done:
            words[start + index] = self._adjust(value, level, domain)
        if xen_slots:
            self.top.fill(mfn, level, domain)
        # Until now it may have been writable, and may be so still in the TLB.
        self._coherence.flush()
        self._coherence.wrote(mfn)
        return 0

    def _invalidate(self, mfn: MFN, level: int, domain: Domain) -> None:
        frames = self.frames
        frames.flags[mfn] &= ~VALIDATED
        self.walked += 1
        start = mfn * ENTRIES
        xen_slots = self.top.reserved(mfn, level)
        for index, value in enumerate(self._words[start : start + ENTRIES].tolist()):
            if not value & PTE_P or index in xen_slots:
                continue
            if level == 1:
                self.put_l1e(value, domain)
            else:
                self._put_table_entry(value, mfn, level, domain)
                if level == _L3 and domain.width == 32:
                    self._words[start + index] = value & ~L3_PAE | PTE_P
        frames.flags[mfn] &= ~XEN_L2
        self._coherence.flush()

    # -- updates ---------------------------------------------------------------------------

    def update_entry(
        self,
        table: MFN,
        index: int,
        new: int,
        domain: Domain,
        *,
        owner: int | None = None,
        preserve_ad: bool = False,
        va: VA | None = None,
        manager: Domain | None = None,
    ) -> int:
        """Change one entry of a validated table of ``domain``.

        ``owner``: whose frames an L1 entry may map, if not ``domain``'s. ``manager``: the domain
        that asks, if it manages ``domain`` or the owner. ``va``: the only address
        in the current address space that the entry maps, where that is known: the flush is then
        of one page. Returns 0 or Xen's errno.
        """
        frames = self.frames
        level = frames.type[table]
        words = self._words
        at = table * ENTRIES + index
        old = words[at]
        if preserve_ad:
            new |= old & (PTE_A | PTE_D)
        if level == 1:
            if old & PTE_P and new & PTE_P and not (old ^ new) & ~_SAME_RIGHTS:
                if new & _L1_DISALLOWED:
                    return _EINVAL
            else:
                answer = self.get_l1e(new, domain, owner, manager)
                if answer:
                    return answer
                words[at] = self._adjust(new, 1, domain)
                self._stale(table, old, va)
                self.put_l1e(old, domain)
                return 0
            words[at] = self._adjust(new, 1, domain)
            self._stale(table, old, va)
            return 0
        answer = self.top.refuse_update(table, level, index, domain)
        if answer:
            return answer
        answer = self._get_table_entry(new, table, level, domain, index)
        if answer:
            return answer
        words[at] = self._adjust(new, level, domain)
        self._stale(table, old, None)
        self._put_table_entry(old, table, level, domain)
        return 0

    def entry(self, table: MFN, index: int) -> int:
        """An entry of a table as it is now."""
        return self._words[table * ENTRIES + index]

    def replace_l1e(self, table: MFN, index: int, va: VA | None, new: int) -> int:
        """Store an L1 entry whose references the caller holds (a grant's; 0 has none).

        ``va`` as for ``update_entry``. Returns the old entry, whose references are now the
        caller's to give back: the TLB does not know it any more.
        """
        at = table * ENTRIES + index
        old = self._words[at]
        self._words[at] = new
        self._stale(table, old, va)
        return old

    def _stale(self, table: MFN, old: int, va: VA | None) -> None:
        coherence = self._coherence
        coherence.wrote(table)
        if old & PTE_P:
            if va is None:
                coherence.flush()
            else:
                coherence.flush_page(va)

    # -- pins and base pointers ------------------------------------------------------------

    def pin(self, mfn: int, level: int, domain: Domain) -> int:
        """Keep a table validated though nothing refers to it. Returns 0 or as ``get_table``."""
        answer = self.get_table(mfn, level, domain)
        if answer:
            return answer
        frame = MFN(mfn)
        if self.frames.flags[frame] & PINNED:
            self.put_table(frame, domain)
            return _EINVAL
        self.frames.flags[frame] |= PINNED
        return 0

    def unpin(self, mfn: int, domain: Domain) -> int:
        """Undo ``pin``. Returns 0, or -EINVAL if it is not pinned or not the domain's."""
        frames = self.frames
        if not frames.exists(mfn) or frames.owner[mfn] != domain.id:
            return _EINVAL
        if not frames.flags[mfn] & PINNED:
            return _EINVAL
        frames.flags[mfn] &= ~PINNED
        self.put_table(MFN(mfn), domain)
        return 0
