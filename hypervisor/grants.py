"""Grants: how a domain lets another map or copy a frame of its own.

A domain's grant table (``granttable``) says who may use which frame. Whoever uses it is counted
here (``Active``), and as long as anybody does, the bits GTF_reading and GTF_writing stand in the
entry or its status word, so that the owner knows.

Invariants:

- A host mapping is an ordinary L1 entry of the mapper's with an ordinary reference (and, writable,
  the ``WRITABLE`` type) on the granted frame; it gives them back however it goes away. Nothing but
  ``map_ref`` makes such an entry: ``Paging.get_l1e`` refuses frames of others.
- A device mapping and a ``Hold`` keep the same references themselves.
- Every mapping has a handle of the mapper's (``Mapping``). An entry that was overwritten behind
  the table's back leaves its handle, as in a release build of Xen: it cannot be unmapped any more
  and is forgotten when the mapper ends.
- What is mapped may outlive its owner: the frame goes when the last mapping does.
- Shared frames (``DomId.COW``) cannot be granted, since they belong to nobody who could; a mapped
  frame cannot be shared, since it has other references.
- Part of a frame and a grant passed on (version 2) can be copied and never mapped. Only one step
  is followed of those passed on, so that nothing recurses.

Every value in an entry is a claim, looked at once. Results are GNTST_*; nothing is changed on a
failure except that the bits in the owner's entry may be cleared, as by Xen.

Source: xen/grant_table.h; the order of checks and their statuses are those of Xen 4.17.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emu.paging import PTE_A, PTE_D, PTE_G, PTE_MFN_MASK, PTE_NX, PTE_P, PTE_RW, PTE_US
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, VA
from hypervisor.abi import GntMap, GntSt, Gtf
from hypervisor.domain import Domain
from hypervisor.frames import VALIDATED, PageType
from hypervisor.granttable import (
    DEVICE_R,
    DEVICE_W,
    HOST_R,
    HOST_W,
    Active,
    Entry,
    GrantTable,
    Mapping,
)
from hypervisor.paging import GRANT, GUEST_KERNEL

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_MAPPINGS: Final = 1 << 16
"""Mappings that one domain may have; Xen's default is four times as many."""
_MAX_PIN: Final = 0x80
"""Users of one kind of one entry, beyond which no more are let in."""

_OKAY: Final = int(GntSt.okay)
_GENERAL: Final = int(GntSt.general_error)
_BAD_PAGE: Final = int(GntSt.bad_page)
_READING: Final = int(Gtf.reading)
_WRITING: Final = int(Gtf.writing)
_READONLY: Final = int(GntMap.readonly)
_HOST: Final = int(GntMap.host_map)
_DEVICE: Final = int(GntMap.device_map)
_PTE: Final = int(GntMap.contains_pte)
_LOOKED_AT_SHIFT: Final = 3
"""To look through entries in use is work for every 8 of them."""
_AVL_FROM: Final = 16
"""Bit of the map flags from which GNTMAP_guest_avail goes into the entry's AVL bits."""
_SAME: Final = PTE_P | PTE_RW | PTE_MFN_MASK
_WRITABLE: Final = int(PageType.WRITABLE)


@dataclass(frozen=True, slots=True)
class Hold:
    """A granted frame in the hypervisor's own hands, until ``Grants.release``.

    ``start`` and ``length``: which bytes of it were granted. ``inner``: the hold of the grant that
    this one passed on, which keeps the references; 0 for none.
    """

    table: GrantTable
    ref: int
    active: Active
    mfn: MFN
    readonly: bool
    inner: int = 0

    @property
    def start(self) -> int:
        """First byte that was granted."""
        return self.active.start

    @property
    def length(self) -> int:
        """How many bytes were granted."""
        return self.active.length


class Grants:
    """All domains' grant tables."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._paging = hv.paging
        self._frames = hv.frames
        self._tables: dict[int, GrantTable] = {}
        self._holds: dict[int, Hold] = {}
        self._next_hold = 0

    # -- tables ----------------------------------------------------------------------------

    def table(self, domain: Domain) -> GrantTable:
        """A domain's table; it has one frame from its first use on, memory permitting."""
        table = self._tables.get(domain.id)
        if table is None:
            machine = self._hv.machine
            table = GrantTable(domain, machine.memory, machine.coherence, self._frames)
            self._tables[domain.id] = table
        if not table.frames:
            table.grow(1)
        return table

    def set_version(self, domain: Domain, version: int) -> int:
        """Switch a domain's table to version 1 or 2; see ``GrantTable.set_version``."""
        return self.table(domain).set_version(version, self._paging)

    def release_mappings(self, domain: Domain) -> None:
        """A domain ends: its handles go. The entries go with its page tables, and their
        references with them."""
        table = self._tables.get(domain.id)
        if table is None:
            return
        for mapping in table.mappings.values():
            readonly = bool(mapping.flags & _READONLY)
            if mapping.flags & _DEVICE:
                self._put(mapping.active.mfn, readonly, domain)
                self._unpin(mapping, DEVICE_R if readonly else DEVICE_W)
            if mapping.flags & _HOST:
                self._unpin(mapping, HOST_R if readonly else HOST_W)
        table.mappings.clear()

    def drop_table(self, domain: Domain) -> None:
        """A domain ends: its own table goes; what others map of its frames stays mapped."""
        table = self._tables.pop(domain.id, None)
        if table is not None:
            table.drop(self._paging)

    def swap(self, domain: Domain, a: int, b: int) -> int:
        """Exchange two entries that nobody uses."""
        table = self.table(domain)
        if a >= table.entries or b >= table.entries:
            return int(GntSt.bad_gntref)
        if a == b:
            return _OKAY
        if a in table.active or b in table.active:
            return int(GntSt.eagain)
        table.exchange(a, b)
        return _OKAY

    # -- use of an entry -------------------------------------------------------------------

    def _look(
        self, table: GrantTable, ref: int, user: int, readonly: bool, mapping: bool
    ) -> Active | int:
        """What entry ``ref`` grants domain ``user``; its bits are set in the owner's memory.

        Nothing is counted yet: the caller counts a pin, or calls ``_settle``. Returns a status
        if it grants nothing.
        """
        if ref >= table.entries:
            return int(GntSt.bad_gntref)
        active = table.active.get(ref)
        if active is not None:
            if active.domid != user or any(pin >= _MAX_PIN for pin in active.pins):
                return _GENERAL
            if mapping and active.copy_only:
                return _GENERAL
            if readonly or active.written:
                return active
        entry = table.entry(ref)
        if active is None and not self._grants(table, entry, user, mapping):
            return _GENERAL
        if not readonly and entry.flags & Gtf.readonly:
            return _GENERAL
        table.mark(ref, _READING if readonly else _READING | _WRITING)
        if active is None:
            active = table.active[ref] = Active(
                user, MFN(entry.frame), entry.start, entry.length, entry.partial
            )
            if not self._frames.exists(active.mfn) or (
                self._frames.owner[active.mfn] != table.owner.id
            ):
                self._settle(table, ref, active, readonly)
                return _BAD_PAGE
        return active

    @staticmethod
    def _grants(table: GrantTable, entry: Entry, user: int, mapping: bool) -> bool:
        """True if an entry that nobody uses grants ``user`` a frame of its owner's."""
        kind = entry.flags & Gtf.type_mask
        if mapping and entry.flags & Gtf.sub_page:
            return False
        return kind == Gtf.permit_access and entry.domid == user

    def _settle(self, table: GrantTable, ref: int, active: Active, readonly: bool) -> None:
        """After a pin went, or was not taken: clear the bits that nobody justifies any more."""
        clear = 0
        if not readonly and not active.written:
            clear |= _WRITING
        if not any(active.pins):
            clear |= _READING
            table.active.pop(ref, None)
        if clear:
            table.mark(ref, clear=clear)

    def _unpin(self, mapping: Mapping, way: int) -> None:
        mapping.active.pins[way] -= 1
        readonly = bool(mapping.flags & _READONLY)
        self._settle(mapping.table, mapping.ref, mapping.active, readonly)

    def _get(self, mfn: MFN, readonly: bool, owner: Domain) -> bool:
        """Take the references of one use of a frame of ``owner``."""
        if not self._paging.get_owned(mfn, owner):
            return False
        if not readonly and self._paging.get_type(mfn, _WRITABLE, owner):
            self._paging.put_ref(mfn)
            return False
        return True

    def _put(self, mfn: MFN, readonly: bool, domain: Domain) -> None:
        if not readonly:
            self._paging.put_type(mfn, domain)
        self._paging.put_ref(mfn)

    # -- holding: copies, and the hypervisor's own devices ---------------------------------

    def hold(self, owner: Domain, ref: int, user: int, *, readonly: bool) -> tuple[int, int]:
        """Take hold of a frame, or the part of one, that ``owner`` grants to domain ``user``.

        For copies, which must stay within ``part``. Returns (GNTST_okay, key), for ``held`` and
        ``release``, or (status, 0).
        """
        table = self.table(owner)
        if table.passes_on(ref):
            return self._hold_passed_on(table, ref, user, readonly)
        return self._hold(table, ref, user, readonly)

    def hold_page(self, owner: Domain, ref: int, user: int, *, readonly: bool) -> tuple[int, int]:
        """``hold`` for whom a real one would map the frame: of a whole one, from its owner."""
        return self._hold(self.table(owner), ref, user, readonly, mapping=True)

    def _hold(
        self, table: GrantTable, ref: int, user: int, readonly: bool, mapping: bool = False
    ) -> tuple[int, int]:
        active = self._look(table, ref, user, readonly, mapping)
        if isinstance(active, int):
            return active, 0
        if not self._get(active.mfn, readonly, table.owner):
            self._settle(table, ref, active, readonly)
            return _GENERAL, 0
        return _OKAY, self._keep(Hold(table, ref, active, active.mfn, readonly))

    def _keep(self, hold: Hold) -> int:
        hold.active.pins[HOST_R if hold.readonly else HOST_W] += 1
        self._next_hold += 1
        self._holds[self._next_hold] = hold
        return self._next_hold

    def _hold_passed_on(
        self, table: GrantTable, ref: int, user: int, readonly: bool
    ) -> tuple[int, int]:
        """Hold what a third domain grants to ``table``'s owner, which passes it on to ``user``.

        Whoever changes such an entry while it is in use gets no more out of it: Xen would try
        again for ever.
        """
        entry, active = table.entry(ref), table.active.get(ref)
        if active is not None:
            if active.domid != user or any(pin >= _MAX_PIN for pin in active.pins):
                return _GENERAL, 0
        elif entry.domid != user:
            return _GENERAL, 0
        if not readonly and entry.flags & Gtf.readonly:
            return _GENERAL, 0
        third = self._hv.domains.get(entry.via_domain)
        if third is None or third.exit is not None or third is table.owner:
            return _GENERAL, 0
        inner_table = self.table(third)
        status, key = self._hold(inner_table, entry.via_ref, table.owner.id, readonly)
        if status:
            return status, 0
        inner = self._holds[key]
        if active is None:
            active = Active(user, inner.mfn, inner.start, inner.length, copy_only=True)
            table.active[ref] = active
        elif (active.mfn, active.start, active.length, active.copy_only) != (
            inner.mfn,
            inner.start,
            inner.length,
            True,
        ):
            self.release(key)
            return _GENERAL, 0
        table.mark(ref, _READING if readonly else _READING | _WRITING)
        return _OKAY, self._keep(Hold(table, ref, active, inner.mfn, readonly, key))

    def held(self, key: int) -> MFN:
        """The frame of a hold."""
        return self._holds[key].mfn

    def part(self, key: int) -> tuple[int, int]:
        """Which bytes of the frame a hold allows: the first, and how many."""
        hold = self._holds[key]
        return hold.start, hold.length

    def release(self, key: int) -> None:
        """End a hold."""
        hold = self._holds.pop(key)
        if not hold.inner:
            self._put(hold.mfn, hold.readonly, hold.table.owner)
        hold.active.pins[HOST_R if hold.readonly else HOST_W] -= 1
        self._settle(hold.table, hold.ref, hold.active, hold.readonly)
        if hold.inner:
            self.release(hold.inner)

    # -- mapping ---------------------------------------------------------------------------

    def map_ref(
        self, domain: Domain, owner: Domain, ref: int, flags: int, address: int
    ) -> tuple[int, int, int]:
        """Map what ``owner`` grants: (status, handle, machine address).

        ``flags``: GNTMAP_*; ``address``: linear, or with ``contains_pte`` the machine address of
        the L1 entry to use. What was mapped there before goes.
        """
        mine = self.table(domain)
        if not mine.free_handles and mine.next_handle >= MAX_MAPPINGS:
            return int(GntSt.no_device_space), 0, 0
        theirs = self.table(owner)
        readonly = bool(flags & _READONLY)
        active = self._look(theirs, ref, domain.id, readonly, mapping=True)
        if isinstance(active, int):
            return active, 0, 0
        mfn = active.mfn
        if not self._map(domain, owner, mfn, flags, address):
            self._settle(theirs, ref, active, readonly)
            return _GENERAL, 0, 0
        if flags & _DEVICE:
            active.pins[DEVICE_R if readonly else DEVICE_W] += 1
        if flags & _HOST:
            active.pins[HOST_R if readonly else HOST_W] += 1
        if mine.free_handles:
            handle = mine.free_handles.popleft()
        else:
            handle, mine.next_handle = mine.next_handle, mine.next_handle + 1
        mine.mappings[handle] = Mapping(theirs, ref, active, flags)
        return _OKAY, handle, mfn << PAGE_SHIFT

    def _map(self, domain: Domain, owner: Domain, mfn: MFN, flags: int, address: int) -> bool:
        """Take the references and make the entry; all or nothing."""
        readonly = bool(flags & _READONLY)
        if flags & _DEVICE and not self._get(mfn, readonly, owner):
            return False
        if flags & _HOST:
            slot = self._slot(domain, address, flags)
            if slot is None or not self._get(mfn, readonly, owner):
                if flags & _DEVICE:
                    self._put(mfn, readonly, owner)
                return False
            entry = mfn << PAGE_SHIFT | self._entry_flags(domain, flags)
            self._paging.put_l1e(self._paging.replace_l1e(*slot, entry), domain)
        return True

    @staticmethod
    def _entry_flags(domain: Domain, flags: int) -> int:
        entry = PTE_P | PTE_A | PTE_D | PTE_NX | GRANT | (flags >> _AVL_FROM & 7) << 9
        if not flags & _READONLY:
            entry |= PTE_RW
        user = bool(flags & GntMap.application_map)
        if domain.width == 64:
            return entry | PTE_US | (PTE_G if user else GUEST_KERNEL)
        return entry | PTE_US if user else entry

    def _slot(self, domain: Domain, address: int, flags: int) -> tuple[MFN, int, VA | None] | None:
        """The L1 entry that ``address`` names: table, index, and the one address it maps."""
        if not flags & _PTE:
            found = self._paging.find_l1(domain, address)
            if found is None:
                return None
            table, index, only = found
            return table, index, VA(address & ~PAGE_MASK) if only else None
        frames = self._frames
        mfn = address >> PAGE_SHIFT
        if (
            address & 7
            or not frames.exists(mfn)
            or frames.owner[mfn] != domain.id
            or frames.type[mfn] != PageType.L1
            or not frames.flags[mfn] & VALIDATED
        ):
            return None
        return MFN(mfn), (address & PAGE_MASK) >> 3, None

    def unmap(
        self, domain: Domain, handle: int, address: int, bus: int = 0, replacement: int = 0
    ) -> int:
        """Undo a mapping, or the half of it that ``address`` and ``bus`` (its results) name.

        ``replacement``: a linear address whose entry moves to ``address``, 0 for none; it is lost
        if that turns out to be impossible, as in Xen.
        """
        table = self.table(domain)
        mapping = table.mappings.get(handle)
        if mapping is None:
            return int(GntSt.bad_handle)
        mfn, flags = mapping.active.mfn, mapping.flags
        readonly = bool(flags & _READONLY)
        if bus and flags & _DEVICE and bus != mfn << PAGE_SHIFT:
            return int(GntSt.bad_dev_addr)
        if address and flags & _HOST:
            if not self._unmap_entry(domain, address, mfn, flags, replacement):
                return _GENERAL
            mapping.flags &= ~_HOST
            self._unpin(mapping, HOST_R if readonly else HOST_W)
        if bus and flags & _DEVICE:
            mapping.flags &= ~_DEVICE
            self._put(mfn, readonly, domain)
            self._unpin(mapping, DEVICE_R if readonly else DEVICE_W)
        if not mapping.flags & (_HOST | _DEVICE):
            del table.mappings[handle]
            table.free_handles.append(handle)
        return _OKAY

    def _unmap_entry(
        self, domain: Domain, address: int, mfn: MFN, flags: int, replacement: int
    ) -> bool:
        paging = self._paging
        new = 0
        if replacement:
            taken = None if flags & _PTE else paging.find_l1(domain, replacement)
            if taken is None:
                return False
            new = paging.replace_l1e(taken[0], taken[1], None, 0)
        slot = self._slot(domain, address, flags)
        expected = mfn << PAGE_SHIFT | PTE_P | (0 if flags & _READONLY else PTE_RW)
        if slot is None or (paging.entry(slot[0], slot[1]) ^ expected) & _SAME:
            paging.put_l1e(new, domain)
            return False
        paging.put_l1e(paging.replace_l1e(*slot, new), domain)
        return True

    # -- for others ------------------------------------------------------------------------

    def uses(self, domain: Domain, mfn: int) -> bool:
        """True if some domain grants frame ``mfn`` to ``domain``, which makes use of it."""
        owner = self._tables.get(self._frames.owner[mfn])
        if owner is not None:
            self._hv.spend(len(owner.active) >> _LOOKED_AT_SHIFT)
        return owner is not None and any(
            active.domid == domain.id and active.mfn == mfn for active in owner.active.values()
        )

    def references(self) -> Iterator[tuple[MFN, bool]]:
        """For the audit: frames that are referred to by more than page-table entries, once for
        each reference, and whether it is a ``WRITABLE`` one too."""
        for table in self._tables.values():
            for mfn in table.all_frames:
                yield mfn, True
            for mapping in table.mappings.values():
                if mapping.flags & _DEVICE:
                    yield mapping.active.mfn, not mapping.flags & _READONLY
        for hold in self._holds.values():
            if not hold.inner:
                yield hold.mfn, not hold.readonly

    def host_mappings(self) -> "Counter[tuple[int, int, bool]]":
        """For the audit: how many entries may map what: (mapper, MFN, writable)."""
        return Counter(
            (table.owner.id, mapping.active.mfn, not mapping.flags & _READONLY)
            for table in self._tables.values()
            for mapping in table.mappings.values()
            if mapping.flags & _HOST
        )
