"""A memory manager: what a domain may do with its targets' memory, and with nobody else's."""

import struct

import pytest

from emu.paging import PTE_RW
from emu.units import ENTRIES, PAGE_SHIFT
from hypervisor.abi import DomId, Errno, Hypercall, XenMem
from hypervisor.audit import audit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade

PAGES = 4
SELF = int(DomId.SELF)


class Group:
    """A manager, two clients of its own, and a stranger; all on one machine."""

    def __init__(self, groups: int = 0) -> None:
        self.hv = Hypervisor(Settings(machine_memory=8 << 20, groups=groups))
        self.manager, self.one, self.two, self.stranger = (
            Handmade(self.hv, PAGES) for _ in range(4)
        )
        self.manager.domain.targets = frozenset({self.one.domain.id, self.two.domain.id})

    def update(self, tables: Handmade, owner: int, page: int, entry: int) -> int:
        """The manager's mmu_update of an entry of ``tables``, naming a frame of ``owner``."""
        at = (tables.space.l1 * ENTRIES + page) * 8
        manager = self.manager
        manager.write(manager.scratch, struct.pack("<QQ", at, entry))
        domid = (tables.domain.id + 1) << 16 | owner
        return manager.call(Hypercall.mmu_update, manager.scratch, 1, 0, domid)

    def share(self, of: Handmade, page: int) -> tuple[int, int]:
        """The manager's batch of one entry of ``of``: how many failed, and its status."""
        manager = self.manager
        pointer = (of.space.l1 * ENTRIES + page) * 8
        manager.write(manager.scratch + 64, struct.pack("<QiI", pointer, 0, 0))
        where = manager.scratch + 64
        failed = manager.call(
            Hypercall.make_ro_and_share_batch, where, 1, manager.scratch + 128, 0x200
        )
        status: int = struct.unpack("<i", manager.read(manager.scratch + 72, 4))[0]
        return failed, status


@pytest.fixture
def group():
    made = Group()
    yield made
    assert audit(made.hv) == []


def test_it_changes_its_clients_entries(group):
    frame = group.one.mfn(0)
    assert group.update(group.one, group.one.domain.id, 1, frame << PAGE_SHIFT | RO) == 0
    assert group.one.mfn(1) == frame


def test_it_shares_its_clients_pages(group):
    assert group.share(group.one, 0) == (0, 0)
    assert group.share(group.two, 0) == (0, 1)
    assert group.one.mfn(0) == group.two.mfn(0)
    assert group.hv.sharing.saved == 1
    assert (group.one.domain.entered, group.two.domain.merged) == (1, 1)
    assert group.manager.domain.entered == group.manager.domain.merged == 0


def test_what_it_knows_to_be_equal_is_mapped_without_a_look(group):
    """A frame that one client maps may be mapped, read-only, into another of the group."""
    group.one.write(group.one.va(0), b"the same block")
    assert group.share(group.one, 0) == (0, 0)
    shared = group.one.mfn(0)
    two = group.two.domain.id
    assert group.update(group.two, two, 0, shared << PAGE_SHIFT | RW) == -int(Errno.EBUSY)
    pages = group.two.domain.pages
    old = group.two.mfn(0)
    assert group.update(group.two, two, 0, shared << PAGE_SHIFT | RO | 0x200) == 0
    assert group.two.read(group.two.va(0), 14) == b"the same block"
    assert group.hv.frames.refs[shared] == 2
    assert group.two.give_back(old) == 1
    assert group.two.domain.pages == pages - 1


def test_a_strangers_shared_frame_is_not_its_to_give(group):
    assert group.stranger.share(0) == 0
    shared = group.stranger.mfn(0)
    for page, entry in ((0, shared << PAGE_SHIFT | RO), (1, shared << PAGE_SHIFT | RW)):
        answer = group.update(group.one, group.one.domain.id, page, entry)
        assert answer == -int(Errno.EBUSY)


def test_it_does_not_join_sharing_groups() -> None:
    """Its clients are in two of them, and one maps nothing of the other's; nor does itself."""
    group = Group(groups=2)
    assert group.one.domain.group != group.two.domain.group
    assert group.share(group.one, 0) == (0, 0)
    shared = group.one.mfn(0) << PAGE_SHIFT | RO
    two = group.two.domain.id
    assert group.update(group.two, two, 0, shared) == -int(Errno.EBUSY)
    call, manager = Hypercall.update_va_mapping_otherdomain, group.manager
    assert manager.domain.group != group.one.domain.group
    assert manager.call(call, manager.va(3), shared, 0, group.one.domain.id) == -int(Errno.EBUSY)
    assert audit(group.hv) == []


def test_it_reads_its_clients_pages_through_a_window(group):
    group.one.write(group.one.va(2), b"a client's own")
    entry = group.one.mfn(2) << PAGE_SHIFT | RO
    manager, one = group.manager, group.one.domain.id
    call = Hypercall.update_va_mapping_otherdomain
    assert manager.call(call, manager.va(3), entry, 0, one) == 0
    assert manager.read(manager.va(3), 14) == b"a client's own"
    assert manager.call(call, manager.va(3), 0, 0, one) == 0


def test_a_client_goes_while_its_manager_maps_its_page(group):
    manager, one = group.manager, group.one
    entry = one.mfn(2) << PAGE_SHIFT | RW
    call = Hypercall.update_va_mapping_otherdomain
    assert manager.call(call, manager.va(3), entry, 0, one.domain.id) == 0
    frames, mfn = group.hv.frames, one.mfn(2)
    group.hv.crash(one.domain, "test")
    assert frames.refs[mfn] == 1
    assert audit(group.hv) == []
    free = frames.free
    assert manager.update(3, 0) == 0
    assert frames.free == free + 1


def test_it_populates_its_clients(group):
    manager = group.manager
    manager.write(manager.scratch + 64, struct.pack("<Q", 0))
    manager.write(
        manager.scratch,
        struct.pack("<QQIIH6x", manager.scratch + 64, 1, 0, 0, group.one.domain.id),
    )
    pages = group.one.domain.pages
    command = XenMem.increase_reservation
    assert manager.call(Hypercall.memory_op, command, manager.scratch) == 1
    assert group.one.domain.pages == pages + 1


@pytest.mark.parametrize("who", ["stranger", "manager"])
def test_nobody_elses_memory(group, who):
    """A stranger's frames and tables are refused, and so is mixing memory of two domains."""
    before = {d: d.pages for d in group.hv.domains.values()}
    other = getattr(group, who)
    entry = other.mfn(0) << PAGE_SHIFT | RO
    eperm = -int(Errno.EPERM)
    if who == "stranger":
        assert group.update(other, other.domain.id, 1, entry) == eperm
        assert group.share(other, 0) == (1, -int(Errno.EINVAL))
    assert group.update(group.one, SELF, 1, entry) == eperm
    assert group.update(group.one, group.two.domain.id, 1, entry) == eperm
    assert {d: d.pages for d in group.hv.domains.values()} == before
    assert group.one.entry(1) & PTE_RW


def test_clients_are_not_managers(group):
    """The right goes one way: not back, and not on to the other clients."""
    for other in (group.manager, group.two):
        group.one.write(group.one.scratch, struct.pack("<QQ", other.space.l1 << PAGE_SHIFT, 0))
        domid = (other.domain.id + 1) << 16 | SELF
        answer = group.one.call(Hypercall.mmu_update, group.one.scratch, 1, 0, domid)
        assert answer == -int(Errno.EPERM)


def test_a_target_that_is_gone(group):
    gone = group.one.domain.id
    group.hv.crash(group.one.domain, "test")
    assert group.update(group.one, gone, 0, 0) == -int(Errno.ESRCH)
