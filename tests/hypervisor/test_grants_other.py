"""Grant tables: replacing, swapping, transferring, copying, batches, and how all of it ends."""

import struct

import pytest

from emu.paging import PTE_D, PTE_MFN_MASK, PTE_P
from emu.units import ENTRIES, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import Errno, GntSt, GnttabOp, Gtf, Hypercall
from hypervisor.errors import Preempted
from tests.hypervisor.grant_guests import (
    BITS,
    DEVICE,
    EFAULT,
    EINVAL,
    HOST,
    PERMIT,
    PTE,
    READONLY,
    SELF,
    WILD,
)

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


def test_flushing_caches_among_many_grants_is_cut(world, giver, taker):
    """Each request looks through all entries in use: so many of them wait for the next slice."""
    giver.grant(8, 0, taker)
    taker.mapped(giver, 8, 30)
    table = world.hv.grants.table(giver.domain)
    table.active |= {1000 + i: table.active[8] for i in range(1 << 16)}
    request = struct.pack("<QHHI", giver.mfn(0) << PAGE_SHIFT, 0, 64, 1)
    taker.write(taker.va(6), request * 20)
    with pytest.raises(Preempted) as again:
        taker.call(Hypercall.grant_table_op, GnttabOp.cache_flush, taker.va(6), 20)
    assert again.value.arguments == (GnttabOp.cache_flush, taker.va(6) + 32, 18)
    table.active = {8: table.active[8]}


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
