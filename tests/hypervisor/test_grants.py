"""Grant tables: two domains that really have page tables, every call, every refusal, every end.

The audit runs after each step of interest: a mapping is a reference that it must find.
"""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.paging import PTE_AVL, PTE_D, PTE_MFN_MASK, PTE_NX, PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId, Errno, GntMap, GntSt, GnttabOp, Gtf, Hypercall, MmuExt
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.errors import GuestFault
from hypervisor.grants import ENTRIES_PER_FRAME, MAX_GRANT_FRAMES
from hypervisor.hypervisor import Hypervisor
from hypervisor.paging import GRANT
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.kernels import SPIN, Lab

SELF = int(DomId.SELF)
HOST, READONLY = int(GntMap.host_map), int(GntMap.readonly)
DEVICE, PTE = int(GntMap.device_map), int(GntMap.contains_pte)
PERMIT = int(Gtf.permit_access)
BITS = int(Gtf.reading | Gtf.writing)
TABLE_PAGE = 20
"""Where a ``Guest`` maps its grant table."""
EINVAL, EFAULT, ENOSYS = (-int(e) for e in (Errno.EINVAL, Errno.EFAULT, Errno.ENOSYS))
WILD = 0x7000_0000_0000


class Guest(Handmade):
    """A domain with its grant table mapped at ``TABLE_PAGE``."""

    def __init__(self, hv):
        super().__init__(hv, 8)
        status, frames = self.setup(1)
        assert status == 0
        assert self.update(TABLE_PAGE, frames[0] << PAGE_SHIFT | RW) == 0

    @property
    def id(self):
        return self.domain.id

    def op(self, command, layout, *values, at=0x200):
        """A call with one request; (result, what came back)."""
        raw = struct.pack(layout, *values)
        self.write(self.scratch + at, raw)
        answer = self.call(Hypercall.grant_table_op, command, self.scratch + at, 1)
        return answer, struct.unpack(layout, self.read(self.scratch + at, len(raw)))

    def setup(self, count, domid=SELF, where=None):
        lists = self.scratch + 0x400 if where is None else where
        answer, back = self.op(GnttabOp.setup_table, "<HxxIhxxxxxxQ", domid, count, 99, lists)
        assert answer == 0
        if where is not None or back[2] or count > 64:
            return back[2], []
        return 0, list(struct.unpack(f"<{count}Q", self.read(lists, 8 * count)))

    def grant(self, ref, page, user, flags=PERMIT):
        """Entry ``ref`` grants what is mapped at ``page``."""
        self.entry_set(ref, flags, user.id, self.mfn(page))

    def entry_set(self, ref, flags, domid, frame):
        self.write(self.va(TABLE_PAGE) + 8 * ref, struct.pack("<HHI", flags, domid, frame))

    def flags(self, ref):
        return struct.unpack("<H", self.read(self.va(TABLE_PAGE) + 8 * ref, 2))[0]

    def map(self, owner, ref, page, flags=HOST, address=None):
        """(status, handle, bus address)"""
        where = self.va(page) if address is None else address
        domid = owner if isinstance(owner, int) else owner.id
        answer, back = self.op(
            GnttabOp.map_grant_ref, "<QIIHhIQ", where, flags, ref, domid, 99, 0, 0
        )
        assert answer == 0
        return back[4], back[5], back[6]

    def mapped(self, owner, ref, page, flags=HOST, address=None):
        status, handle, _ = self.map(owner, ref, page, flags, address)
        assert status == 0
        return handle

    def unmap(self, handle, page, bus=0, address=None):
        where = self.va(page) if address is None else address
        answer, back = self.op(GnttabOp.unmap_grant_ref, "<QQIhxx", where, bus, handle, 99)
        assert answer == 0
        return back[3]

    def replace(self, handle, page, new):
        answer, back = self.op(GnttabOp.unmap_and_replace, "<QQIhxx", page, new, handle, 99)
        assert answer == 0
        return back[3]

    def copy(self, source, dest, length=8, flags=0):
        """``source`` and ``dest``: (ref or frame, domid, offset)"""
        answer, back = self.op(
            GnttabOp.copy, "<QHHxxxxQHHxxxxHHhxx", *source, *dest, length, flags, 99
        )
        assert answer == 0
        return back[8]

    def pte(self, page):
        """Machine address of the entry that maps a page."""
        return self.space.l1 * PAGE_SIZE + 8 * page


class World:
    """A giver and a taker on one machine."""

    def __init__(self):
        self.hv = Hypervisor(Settings(machine_memory=8 << 20))
        self.free = self.hv.frames.free
        self.giver, self.taker = Guest(self.hv), Guest(self.hv)

    def check(self):
        assert audit(self.hv) == []

    def end(self, guest):
        self.hv.end(guest.domain, Exit("destroyed"))
        self.check()


@pytest.fixture
def world():
    world = World()
    yield world
    world.check()
    for guest in (world.taker, world.giver):
        if guest.domain.exit is None:
            world.end(guest)
    assert world.hv.frames.free == world.free


@pytest.fixture
def giver(world):
    return world.giver


@pytest.fixture
def taker(world):
    return world.taker


# -- the table -----------------------------------------------------------------------------------


def test_setup_and_query_size(giver, taker):
    status, frames = giver.setup(3)
    assert status == 0
    assert len(set(frames)) == 3
    assert giver.setup(2)[1] == frames[:2]
    assert giver.setup(3)[1] == frames
    query = giver.op(GnttabOp.query_size, "<HxxIIhxx", SELF, 0, 0, 99)
    assert query == (0, (SELF, 3, MAX_GRANT_FRAMES, 0))
    assert taker.op(GnttabOp.query_size, "<HxxIIhxx", taker.id, 0, 0, 99)[1][1] == 1


def test_the_rings_are_granted_to_domain_0():
    lab = Lab()
    domain = lab.boot(SPIN)
    (frame,) = lab.hv.grants.table(domain).frames
    entries = struct.unpack_from("<HHIHHIQ", lab.hv.machine.memory.frame(frame))
    store, console = domain.service_frames
    assert entries == (PERMIT, 0, console, PERMIT, 0, store, 0)
    status, key = lab.hv.grants.hold(domain, 1, 0, readonly=False)
    assert status == 0
    lab.check()
    lab.hv.grants.release(key)


def test_setup_refuses(giver, taker):
    assert giver.setup(MAX_GRANT_FRAMES + 1)[0] == GntSt.general_error
    assert giver.setup(0xFFFF_FFFF)[0] == GntSt.general_error
    assert giver.setup(1, taker.id)[0] == GntSt.permission_denied
    assert giver.setup(1, 77)[0] == GntSt.bad_domain
    assert giver.setup(1, where=WILD)[0] == GntSt.bad_virt_addr
    size = giver.op(GnttabOp.query_size, "<HxxIIhxx", taker.id, 0, 0, 99)[1]
    assert size[3] == GntSt.permission_denied
    hole = struct.pack("<HxxIhxxxxxxQ", SELF, 1, 0, 0xFFFF_8000_0000_0000)
    giver.write(giver.scratch, hole)
    for count, answer in ((1, EFAULT), (0, EINVAL), (2, EINVAL)):
        op = GnttabOp.setup_table
        assert giver.call(Hypercall.grant_table_op, op, giver.scratch, count) == answer


def test_setup_without_memory(world, giver):
    hv = world.hv
    taken = hv.frames.allocate_many(hv.frames.free - 1, DomId.XEN, 0)
    assert giver.setup(3)[0] == GntSt.general_error
    world.check()
    for mfn in taken:
        hv.frames.release(mfn)


def test_versions(giver, taker):
    assert giver.op(GnttabOp.set_version, "<I", 1) == (0, (1,))
    assert giver.op(GnttabOp.set_version, "<I", 2) == (ENOSYS, (1,))
    assert giver.op(GnttabOp.set_version, "<I", 3) == (EINVAL, (1,))
    assert giver.op(GnttabOp.get_version, "<HHI", SELF, 0, 9) == (0, (SELF, 0, 1))
    assert giver.op(GnttabOp.get_version, "<HHI", 77, 0, 9)[0] == -Errno.ESRCH
    assert giver.op(GnttabOp.get_version, "<HHI", taker.id, 0, 9)[0] == -Errno.EPERM
    at = giver.scratch + 0x400
    for count, status in ((0, 0), (1, GntSt.general_error)):
        back = giver.op(GnttabOp.get_status_frames, "<IHhQ", count, SELF, 99, at)
        assert back[1][2] == status


def test_commands(giver):
    call = giver.call
    assert call(Hypercall.grant_table_op, 13, giver.scratch, 1) == ENOSYS
    assert call(Hypercall.grant_table_op, GnttabOp.dump_table, giver.scratch, 1) == ENOSYS
    assert call(Hypercall.grant_table_op, 0x1000, giver.scratch, 1) == EINVAL
    assert call(Hypercall.grant_table_op, 0, giver.scratch, 1 << 31) == EINVAL
    assert call(Hypercall.grant_table_op, 0, WILD, 1) == EFAULT
    assert call(Hypercall.grant_table_op, 0, 0xFFFF_8000_0000_0000, 0) == EFAULT
    assert call(Hypercall.grant_table_op, 0, giver.scratch, 0) == 0


def test_the_table_cannot_be_a_page_table_or_shared(world, giver):
    _, (mfn,) = giver.setup(1)
    giver.update(TABLE_PAGE, 0)
    assert world.hv.paging.pin(mfn, 1, giver.domain) == EINVAL
    giver.update(TABLE_PAGE, mfn << PAGE_SHIFT | RW)
    assert giver.share(TABLE_PAGE) < 0


# -- mapping -------------------------------------------------------------------------------------


def test_map_and_unmap(world, giver, taker):
    giver.grant(8, 0, taker)
    status, handle, bus = taker.map(giver, 8, 30)
    assert (status, bus) == (0, giver.mfn(0) << PAGE_SHIFT)
    world.check()
    assert taker.mfn(30) == giver.mfn(0)
    entry = taker.entry(30)
    assert entry & GRANT
    assert entry & PTE_NX
    taker.write(taker.va(30), b"from the taker")
    assert giver.read(giver.va(0), 14) == b"from the taker"
    assert giver.flags(8) == PERMIT | BITS
    assert taker.unmap(handle, 30) == 0
    assert taker.entry(30) == 0
    assert giver.flags(8) == PERMIT
    assert taker.unmap(handle, 30) == GntSt.bad_handle
    with pytest.raises(GuestFault):
        taker.read(taker.va(30), 1)


def test_readonly(world, giver, taker):
    giver.grant(8, 0, taker, PERMIT | Gtf.readonly)
    assert taker.map(giver, 8, 30)[0] == GntSt.general_error
    assert giver.flags(8) == PERMIT | Gtf.readonly
    handle = taker.mapped(giver, 8, 30, HOST | READONLY)
    world.check()
    assert giver.flags(8) == PERMIT | Gtf.readonly | Gtf.reading
    with pytest.raises(GuestFault):
        taker.write(taker.va(30), b"x")
    assert taker.map(giver, 8, 31)[0] == GntSt.general_error
    assert taker.unmap(handle, 30) == 0
    assert giver.flags(8) == PERMIT | Gtf.readonly


def test_bits_follow_the_users(giver, taker):
    giver.grant(8, 0, taker)
    first = taker.mapped(giver, 8, 30, HOST | READONLY)
    assert giver.flags(8) & BITS == Gtf.reading
    second = taker.mapped(giver, 8, 31)
    third = taker.mapped(giver, 8, 32)
    assert giver.flags(8) & BITS == BITS
    assert taker.unmap(second, 31) == 0
    assert giver.flags(8) & BITS == BITS
    assert taker.unmap(third, 32) == 0
    assert giver.flags(8) & BITS == Gtf.reading
    assert taker.unmap(first, 30) == 0
    assert giver.flags(8) & BITS == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"flags": 0}, GntSt.general_error),
        ({"flags": int(Gtf.accept_transfer)}, GntSt.general_error),
        ({"flags": int(Gtf.transitive)}, GntSt.general_error),
        ({"flags": PERMIT | int(Gtf.sub_page)}, GntSt.general_error),
        ({"user": 0}, GntSt.general_error),
        ({"user": SELF}, GntSt.general_error),
        ({"frame": 0}, GntSt.bad_page),
        ({"frame": 0xFFFF_FFFF}, GntSt.bad_page),
        ({"frame": "theirs"}, GntSt.bad_page),
        ({"frame": "table"}, GntSt.general_error),
        ({"ref": ENTRIES_PER_FRAME}, GntSt.bad_gntref),
        ({"ref": 0xFFFF_FFFF}, GntSt.bad_gntref),
        ({"domid": 77}, GntSt.bad_domain),
        ({"domid": SELF}, GntSt.bad_domain),
        ({"how": 0}, GntSt.bad_gntref),
        ({"how": READONLY}, GntSt.bad_gntref),
        ({"address": WILD}, GntSt.general_error),
        ({"address": 0xFFFF_8000_0000_0000}, GntSt.general_error),
        ({"address": 1 << 63}, GntSt.general_error),
        ({"how": HOST | PTE, "address": 0}, GntSt.general_error),
        ({"how": HOST | PTE, "address": (1 << 64) - 8}, GntSt.general_error),
    ],
)
def test_map_refuses(world, giver, taker, change, status):
    frames = {"theirs": taker.mfn(1), "table": giver.space.l1, None: giver.mfn(0)}
    frame = change.get("frame")
    flags = change.get("flags", PERMIT)
    giver.entry_set(8, flags, change.get("user", taker.id), frames.get(frame, frame))
    before = taker.entry(30)
    found = taker.map(
        change.get("domid", giver),
        change.get("ref", 8),
        30,
        change.get("how", HOST),
        change.get("address"),
    )
    assert found[0] == status
    assert taker.entry(30) == before
    assert giver.flags(8) == flags
    world.check()


def test_a_page_table_may_be_mapped_readonly(world, giver, taker):
    giver.entry_set(8, PERMIT, taker.id, giver.space.l1)
    handle = taker.mapped(giver, 8, 30, HOST | READONLY)
    world.check()
    assert taker.read(taker.va(30), 8) == struct.pack("<Q", giver.entry(0))
    assert taker.unmap(handle, 30) == 0


def test_by_entry(world, giver, taker):
    giver.grant(8, 0, taker)
    for address in (taker.pte(30) + 4, giver.pte(30), taker.space.l2 * PAGE_SIZE):
        assert taker.map(giver, 8, 30, HOST | PTE, address)[0] == GntSt.general_error
    data = taker.mfn(2) * PAGE_SIZE
    assert taker.map(giver, 8, 30, HOST | PTE, data)[0] == GntSt.general_error
    handle = taker.mapped(giver, 8, 30, HOST | PTE, taker.pte(30))
    world.check()
    assert taker.mfn(30) == giver.mfn(0)
    assert taker.unmap(handle, 30) == GntSt.general_error
    assert taker.unmap(handle, 30, address=taker.pte(31)) == GntSt.general_error
    assert taker.unmap(handle, 30, address=taker.pte(30)) == 0
    assert taker.entry(30) == 0


def test_avl_bits_and_user(giver, taker):
    giver.grant(8, 0, taker)
    flags = HOST | int(GntMap.application_map) | 5 << 16
    handle = taker.mapped(giver, 8, 30, flags)
    assert taker.entry(30) & PTE_AVL == 5 << 9
    assert taker.entry(30) & PTE_US
    assert taker.unmap(handle, 30) == 0


def test_what_was_mapped_there_goes(world, giver, taker):
    giver.grant(8, 0, taker)
    old = taker.mfn(3)
    handle = taker.mapped(giver, 8, 3)
    assert world.hv.frames.refs[old] == 0
    world.check()
    assert taker.unmap(handle, 3) == 0
    assert taker.update(3, old << PAGE_SHIFT | RW) == 0


def test_device_maps(world, giver, taker):
    giver.grant(8, 0, taker)
    status, handle, bus = taker.map(giver, 8, 30, DEVICE | HOST)
    assert status == 0
    world.check()
    assert world.hv.frames.refs[giver.mfn(0)] == 3
    assert taker.unmap(handle, 30, bus + PAGE_SIZE) == GntSt.bad_dev_addr
    assert taker.unmap(handle, 30) == 0
    world.check()
    assert giver.flags(8) & BITS == BITS
    assert taker.unmap(handle, 30, bus, address=0) == 0
    assert giver.flags(8) & BITS == 0
    assert taker.unmap(handle, 30, bus) == GntSt.bad_handle
    handle = taker.mapped(giver, 8, 30, DEVICE | READONLY)
    world.check()
    assert taker.unmap(handle, 30, bus) == 0


def test_grant_to_oneself(world, giver):
    giver.grant(8, 0, giver)
    handle = giver.mapped(giver, 8, 30)
    world.check()
    assert giver.share(0) == -Errno.EBUSY
    giver.update(0, 0)
    assert giver.share(30) == -Errno.EPERM
    assert giver.unmap(handle, 30) == 0


def test_pins_do_not_overflow(giver, taker):
    giver.grant(8, 0, taker)
    handles = [taker.mapped(giver, 8, 30 + i) for i in range(128)]
    assert taker.map(giver, 8, 300)[0] == GntSt.general_error
    assert [taker.unmap(h, 30 + i) for i, h in enumerate(handles)] == [0] * 128


def test_handles_end(giver, taker, monkeypatch):
    monkeypatch.setattr("hypervisor.grants.MAX_MAPPINGS", 2)
    giver.grant(8, 0, taker)
    first, _ = taker.mapped(giver, 8, 30), taker.mapped(giver, 8, 31)
    assert taker.map(giver, 8, 32)[0] == GntSt.no_device_space
    assert taker.unmap(first, 30) == 0
    assert taker.mapped(giver, 8, 32) == first


def test_an_entry_that_the_owner_changed_meanwhile(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30, HOST | READONLY)
    giver.entry_set(8, 0, 0, 0)
    again = taker.mapped(giver, 8, 31, HOST | READONLY)
    assert taker.mfn(31) == giver.mfn(0)
    giver.entry_set(8, PERMIT | Gtf.readonly, 0, 5)
    assert taker.map(giver, 8, 32)[0] == GntSt.general_error
    assert taker.unmap(handle, 30) == 0
    assert taker.unmap(again, 31) == 0
    assert giver.flags(8) == PERMIT | Gtf.readonly
    world.check()


# -- the entry is the guest's, but no way to more -------------------------------------------------


def test_a_foreign_frame_is_mapped_by_grant_only(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30, HOST | READONLY)
    frame = giver.mfn(0) << PAGE_SHIFT
    for entry in (frame | RW, frame | RO):
        assert taker.update(31, entry) < 0
    assert taker.update(30, frame | RW) < 0
    assert taker.update(30, taker.entry(30) | PTE_RW) < 0
    assert taker.share(30) == -Errno.EPERM
    world.check()
    assert taker.unmap(handle, 30) == 0


def test_overwriting_destroys(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert taker.update(30, 0) == 0
    world.check()
    assert world.hv.frames.refs[giver.mfn(0)] == 1
    assert taker.unmap(handle, 30) == GntSt.general_error
    assert giver.flags(8) & BITS == BITS
    world.end(taker)
    assert giver.flags(8) & BITS == 0


def test_the_software_bit_may_be_cleared(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert taker.update(30, taker.entry(30) & ~GRANT) == 0
    world.check()
    assert taker.share(30) == -Errno.EPERM
    assert taker.unmap(handle, 30) == 0


def test_a_shared_frame_is_no_grant(world, giver, taker):
    assert giver.share(0) == 0
    giver.grant(8, 0, taker)
    assert taker.map(giver, 8, 30, HOST | READONLY)[0] == GntSt.bad_page
    assert taker.copy((8, giver.id, 0), (taker.mfn(0), SELF, 0), flags=1) == GntSt.bad_page
    world.check()


def test_what_is_mapped_is_not_shared(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30, HOST | READONLY)
    assert giver.share(0) == -Errno.EBUSY
    assert taker.unmap(handle, 30) == 0
    assert giver.share(0) == 0
    world.check()


def test_what_is_mapped_writable_is_no_page_table(world, giver, taker):
    giver.write(giver.va(0), bytes(PAGE_SIZE))
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    frame = giver.mfn(0)
    assert giver.update(0, 0) == 0
    assert world.hv.paging.pin(frame, 1, giver.domain) == EINVAL
    assert taker.unmap(handle, 30) == 0
    assert world.hv.paging.pin(frame, 1, giver.domain) == 0
    assert taker.map(giver, 8, 30)[0] == GntSt.general_error


def test_a_frame_given_back_stays_until_it_is_unmapped(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    frame = giver.mfn(0)
    taker.write(taker.va(30), b"still here")
    assert giver.update(0, 0) == 0
    assert giver.give_back(frame) == 1
    world.check()
    assert taker.read(taker.va(30), 10) == b"still here"
    free = world.hv.frames.free
    assert taker.unmap(handle, 30) == 0
    assert world.hv.frames.free == free + 1


# -- replacing, swapping, transferring -----------------------------------------------------------


def test_unmap_and_replace(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    moved = taker.entry(3)
    assert taker.replace(handle, taker.va(30), taker.va(3)) == 0
    assert (taker.entry(30), taker.entry(3)) == (moved, 0)
    world.check()
    handle = taker.mapped(giver, 8, 31)
    assert taker.replace(handle, taker.va(31), 0) == 0
    assert taker.entry(31) == 0
    world.check()


def test_unmap_and_replace_loses_what_it_took(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert taker.replace(handle, taker.va(31), taker.va(3)) == GntSt.general_error
    assert taker.entry(3) == 0
    world.check()
    assert taker.replace(handle, taker.va(30), WILD) == GntSt.general_error
    assert taker.replace(handle, taker.va(30), taker.va(30)) == GntSt.general_error
    assert taker.entry(30) == 0
    world.check()
    by_entry = taker.mapped(giver, 8, 31, HOST | PTE, taker.pte(31))
    assert taker.replace(by_entry, taker.pte(31), taker.va(4)) == GntSt.general_error
    assert taker.entry(4)
    assert taker.unmap(by_entry, 31, address=taker.pte(31)) == 0


def test_replace_by_a_shared_page(world, giver, taker):
    giver.grant(8, 0, taker)
    assert taker.share(3) == 0
    handle = taker.mapped(giver, 8, 30)
    assert taker.replace(handle, taker.va(30), taker.va(3)) == 0
    world.check()


def test_swap(giver, taker):
    giver.grant(8, 0, taker)
    giver.grant(9, 1, taker, PERMIT | Gtf.readonly)

    def swap(a, b):
        return giver.op(GnttabOp.swap_grant_ref, "<IIhxx", a, b, 99)[1][2]

    assert swap(8, 9) == 0
    assert giver.flags(8) == PERMIT | Gtf.readonly
    handle = taker.mapped(giver, 9, 30)
    assert taker.mfn(30) == giver.mfn(0)
    assert swap(8, 9) == swap(9, 8) == GntSt.eagain
    assert swap(9, 9) == 0
    assert swap(8, 512) == swap(512, 8) == GntSt.bad_gntref
    assert taker.unmap(handle, 30) == 0


def test_transfer_is_refused(giver, taker):
    def transfer(mfn, domid):
        return giver.op(GnttabOp.transfer, "<QHxxIhxxxxxx", mfn, domid, 8, 99)[1][3]

    assert transfer(giver.mfn(0), taker.id) == GntSt.permission_denied
    assert transfer(taker.mfn(0), taker.id) == GntSt.bad_page
    assert transfer(1 << 60, taker.id) == GntSt.bad_page
    assert transfer(giver.mfn(0), 77) == GntSt.bad_domain


def test_cache_flush(giver, taker):
    def flush(guest, mfn, offset=0, length=64, op=1):
        layout = "<QHHI"
        return guest.op(GnttabOp.cache_flush, layout, mfn << PAGE_SHIFT, offset, length, op)[0]

    assert flush(giver, giver.mfn(0)) == flush(giver, giver.mfn(0), op=3) == 0
    assert flush(giver, giver.mfn(0), op=2) == -Errno.EOPNOTSUPP
    assert flush(giver, giver.mfn(0), offset=4090) == EINVAL
    assert flush(giver, giver.mfn(0), op=4) == flush(giver, giver.mfn(0), op=1 << 31) == EINVAL
    assert flush(giver, 0) == -Errno.EPERM
    assert flush(giver, 1 << 40) == EINVAL
    assert flush(giver, 1 << 40, length=0) == 0
    assert flush(taker, giver.mfn(0)) == EINVAL
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert flush(taker, giver.mfn(0)) == 0
    assert taker.unmap(handle, 30) == 0


# -- copying -------------------------------------------------------------------------------------


def test_copy_both_ways(world, giver, taker):
    giver.grant(8, 0, taker)
    giver.write(giver.va(0) + 100, b"the givers")
    assert taker.copy((8, giver.id, 100), (taker.mfn(1), SELF, 4086), 10, flags=1) == 0
    assert taker.read(taker.va(1) + 4086, 10) == b"the givers"
    taker.write(taker.va(1), b"the takers")
    assert taker.copy((taker.mfn(1), SELF, 0), (8, giver.id, 7), 10, flags=2) == 0
    assert giver.read(giver.va(0) + 7, 10) == b"the takers"
    assert giver.flags(8) == PERMIT
    assert taker.copy((taker.mfn(1), SELF, 0), (taker.mfn(1), SELF, 5), 10) == 0
    assert taker.read(taker.va(1), 15) == b"the ttakers"[:5] + b"the takers"
    giver.entry_set(9, PERMIT, taker.id, giver.mfn(1))
    assert taker.copy((8, giver.id, 7), (9, giver.id, 0), 10, flags=3) == 0
    assert giver.read(giver.va(1), 10) == b"the takers"


@pytest.mark.parametrize(
    ("source", "dest", "length", "flags", "status"),
    [
        (("ref", "giver", 4090), ("mine", SELF, 0), 10, 1, GntSt.bad_copy_arg),
        (("ref", "giver", 0), ("mine", SELF, 4096), 1, 1, GntSt.bad_copy_arg),
        (("ref", "giver", 0xFFFF), ("mine", SELF, 0), 0xFFFF, 1, GntSt.bad_copy_arg),
        (("theirs", "giver", 0), ("mine", SELF, 0), 8, 0, GntSt.permission_denied),
        (("mine", "taker", 0), ("mine", SELF, 0), 8, 0, GntSt.permission_denied),
        (("theirs", SELF, 0), ("mine", SELF, 0), 8, 0, GntSt.bad_page),
        (("wild", SELF, 0), ("mine", SELF, 0), 8, 0, GntSt.bad_page),
        (("ref", 77, 0), ("mine", SELF, 0), 8, 1, GntSt.bad_domain),
        (("wild", "giver", 0), ("mine", SELF, 0), 8, 1, GntSt.bad_gntref),
        (("mine", SELF, 0), ("readonly", "giver", 0), 8, 2, GntSt.general_error),
        (("mine", SELF, 0), ("table", SELF, 0), 8, 0, GntSt.general_error),
        (("mine", SELF, 0), ("tables", "giver", 0), 8, 2, GntSt.general_error),
        (("ref", "giver", 0), ("none", "giver", 0), 8, 3, GntSt.general_error),
    ],
)
def test_copy_refuses(world, giver, taker, source, dest, length, flags, status):
    giver.grant(8, 0, taker)
    giver.grant(9, 1, taker, PERMIT | Gtf.readonly)
    giver.entry_set(10, PERMIT, taker.id, giver.space.l1)
    names = {"ref": 8, "readonly": 9, "tables": 10, "none": 11, "mine": taker.mfn(0)}
    names |= {"theirs": giver.mfn(0), "wild": 0xFFFF_FFFF, "table": taker.space.l1}
    domids = {"giver": giver.id, "taker": taker.id}

    def end(what, domid, offset):
        return names[what], domids.get(domid, domid), offset

    before = [giver.contents(i) for i in range(8)] + [taker.contents(i) for i in range(8)]
    assert taker.copy(end(*source), end(*dest), length, flags) == status
    after = [giver.contents(i) for i in range(8)] + [taker.contents(i) for i in range(8)]
    assert before == after
    assert giver.flags(8) == giver.flags(10) == PERMIT
    world.check()


def test_one_failure_does_not_stop_a_batch(giver, taker):
    giver.grant(8, 0, taker)
    layout = "<QIIHhIQ"
    request = [struct.pack(layout, taker.va(30 + i), HOST, 8 + i % 2, giver.id, 99, 0, 0)
               for i in range(3)]  # fmt: skip
    at = taker.scratch + 0x200
    taker.write(at, b"".join(request))
    assert taker.call(Hypercall.grant_table_op, GnttabOp.map_grant_ref, at, 3) == 0
    back = list(struct.iter_unpack(layout, taker.read(at, 96)))
    assert [one[4] for one in back] == [0, GntSt.general_error, 0]
    for i in (0, 2):
        assert taker.unmap(back[i][5], 30 + i) == 0


def test_a_batch_that_leaves_memory_keeps_what_it_did(world, giver, taker):
    giver.grant(8, 0, taker)
    size = 32
    at = taker.scratch + PAGE_SIZE - size
    taker.write(at, struct.pack("<QIIHhIQ", taker.va(30), HOST, 8, giver.id, 99, 0, 0))
    assert taker.call(Hypercall.grant_table_op, GnttabOp.map_grant_ref, at, 2) == EFAULT
    assert taker.mfn(30) == giver.mfn(0)
    world.check()
    assert taker.unmap(0, 30) == 0


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [HOST, HOST | READONLY, DEVICE, DEVICE | HOST])
def test_the_mapper_ends(world, giver, taker, flags):
    giver.grant(8, 0, taker)
    taker.mapped(giver, 8, 30, flags)
    world.end(taker)
    assert giver.flags(8) == PERMIT
    assert world.hv.frames.refs[giver.mfn(0)] == 1


@pytest.mark.parametrize("flags", [HOST, HOST | READONLY, DEVICE, DEVICE | HOST])
def test_the_owner_ends(world, giver, taker, flags):
    giver.grant(8, 0, taker)
    giver.write(giver.va(0), b"inherited")
    frame = giver.mfn(0)
    status, handle, bus = taker.map(giver, 8, 30, flags)
    assert status == 0
    world.end(giver)
    if flags & HOST:
        assert taker.read(taker.va(30), 9) == b"inherited"
    assert taker.map(giver, 8, 31)[0] == GntSt.bad_domain
    free = world.hv.frames.free
    assert taker.unmap(handle, 30, bus) == 0
    assert world.hv.frames.free == free + 1
    assert world.hv.machine.memory.frame_bytes(frame) == bytes(PAGE_SIZE)


def test_both_end_in_each_others_arms(world, giver, taker):
    giver.grant(8, 0, taker)
    taker.grant(8, 0, giver)
    taker.mapped(giver, 8, 30)
    giver.mapped(taker, 8, 30, HOST | READONLY)
    world.check()
    world.end(giver)
    world.end(taker)


def test_a_granted_table_frame_outlives_its_table(world, giver, taker):
    _, (table,) = giver.setup(1)
    giver.entry_set(8, PERMIT, taker.id, table)
    handle = taker.mapped(giver, 8, 30)
    world.end(giver)
    assert taker.unmap(handle, 30) == 0


def test_holds(world, giver, taker):
    grants = world.hv.grants
    giver.entry_set(8, PERMIT, 0, giver.mfn(0))
    assert grants.hold(giver.domain, 9, 0, readonly=True)[0] == GntSt.general_error
    status, key = grants.hold(giver.domain, 8, 0, readonly=False)
    assert status == 0
    assert grants.held(key) == giver.mfn(0)
    world.check()
    assert giver.flags(8) & BITS == BITS
    assert taker.map(giver, 8, 30)[0] == GntSt.general_error
    grants.release(key)
    assert giver.flags(8) & BITS == 0


def test_the_dirty_and_frame_bits_are_as_xen_sets_them(giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    entry = taker.entry(30)
    assert entry & PTE_D
    assert entry & PTE_P
    assert (entry & PTE_MFN_MASK) >> PAGE_SHIFT == giver.mfn(0)
    assert len(range(ENTRIES)) == 512
    assert taker.unmap(handle, 30) == 0


# -- anything at all -----------------------------------------------------------------------------


class Chaos:
    """Two guests that do what they are told, however wrong it is."""

    def __init__(self):
        self.world = World()
        self.guests = (self.world.giver, self.world.taker)
        self.handles = 0

    def do(self, action, who, page, other, ref, flags):
        guest, peer = self.guests[who], self.guests[not who]
        if guest.domain.exit is not None:
            return
        getattr(self, action)(guest, peer, page, other, ref, flags)
        self.world.check()

    def grant(self, guest, peer, page, other, ref, flags):
        mine = guest.mfn(page)
        frame = (mine, mine, mine, guest.space.l1, peer.mfn(page))[other % 5]
        whom = (peer.id, peer.id, guest.id, peer.id, 0)[flags % 5]
        guest.entry_set(ref, flags if flags & 16 else PERMIT | flags & 4, whom, frame)

    def map(self, guest, peer, page, other, ref, flags):
        owner = guest if other == 3 and flags & 1 else peer
        address = guest.pte(page) if flags & PTE else None
        guest.map(owner, ref, page, flags, address)

    def unmap(self, guest, _peer, page, other, ref, flags):
        address = guest.pte(page) if flags & PTE else None
        guest.unmap(ref, page, guest.mfn(page) << PAGE_SHIFT if flags & 1 else 0, address)

    def replace(self, guest, _peer, page, other, ref, flags):
        guest.replace(ref, guest.va(page), guest.va(other) if flags & 1 else 0)

    def copy(self, guest, peer, page, other, ref, flags):
        source = (ref, peer.id, 0) if flags & 1 else (guest.mfn(page), SELF, 0)
        dest = (ref, peer.id, 64) if flags & 2 else (guest.mfn(other), SELF, 64)
        guest.copy(source, dest, 32, flags & 3)

    def swap(self, guest, _peer, page, other, ref, flags):
        guest.op(GnttabOp.swap_grant_ref, "<IIhxx", ref, page, 0)

    def share(self, guest, _peer, page, other, ref, flags):
        guest.share(page)

    def update(self, guest, peer, page, other, ref, flags):
        source = peer if flags & 1 else guest
        guest.update(page, source.mfn(other) << PAGE_SHIFT | (RW if flags & 2 else RO))

    def clear(self, guest, _peer, page, other, ref, flags):
        guest.update(page, guest.entry(page) & ~(GRANT if flags & 1 else PTE_P))

    def give_back(self, guest, _peer, page, other, ref, flags):
        guest.give_back(guest.mfn(page))

    def pin(self, guest, _peer, page, other, ref, flags):
        guest.mmuext(MmuExt.PIN_L1_TABLE, guest.mfn(page))

    def unpin(self, guest, _peer, page, other, ref, flags):
        guest.mmuext(MmuExt.UNPIN_TABLE, guest.mfn(page))

    def end(self, guest, _peer, page, other, ref, flags):
        if flags & 0x38 == 0x38:
            self.world.end(guest)


ACTIONS = sorted(name for name in vars(Chaos) if not name.startswith("_") and name != "do")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*ACTIONS, "grant", "map", "map", "unmap"]),
            st.integers(0, 1),
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(0, 2),
            st.one_of(st.sampled_from([2, 2, 6, 3, 18, 0x3F]), st.integers(0, 31)),
        ),
        max_size=40,
    )
)
def test_nothing_breaks_the_invariants(steps):
    chaos = Chaos()
    for action, who, page, other, ref, flags in steps:
        with contextlib.suppress(GuestFault):
            chaos.do(action, who, page, other, ref, flags)
    for guest in chaos.guests:
        if guest.domain.exit is None:
            chaos.world.end(guest)
    assert chaos.world.hv.frames.free == chaos.world.free
