"""Grant tables: the table itself, mapping and unmapping, and what a mapping allows.

The audit runs after each step of interest: a mapping is a reference that it must find.
"""

import struct

import pytest

from emu.paging import PTE_AVL, PTE_NX, PTE_RW, PTE_US
from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId, Errno, GntMap, GntSt, GnttabOp, Gtf, Hypercall
from hypervisor.errors import GuestFault
from hypervisor.granttable import MAX_GRANT_FRAMES
from hypervisor.paging import GRANT
from tests.hypervisor.grant_guests import (
    BITS,
    DEVICE,
    EFAULT,
    EINVAL,
    ENOSYS,
    HOST,
    PERMIT,
    PTE,
    READONLY,
    SELF,
    TABLE_PAGE,
    WILD,
)
from tests.hypervisor.handmade import RO, RW
from tests.hypervisor.kernels import SPIN, Lab

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
    assert giver.op(GnttabOp.set_version, "<I", 0) == (EINVAL, (1,))
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
        ({"ref": 512}, GntSt.bad_gntref),
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
