"""Grant tables of version 2: switching, parts of frames, what is passed on; audited throughout."""

import pytest

from emu.units import PAGE_SHIFT
from hypervisor.abi import DomId, Errno, GntSt, Gtf
from hypervisor.errors import GuestFault
from tests.hypervisor.grant_guests import (
    BITS,
    EINVAL,
    HOST,
    PERMIT,
    READONLY,
    SELF,
    STATUS_PAGE,
    TABLE_PAGE,
    WILD,
    Guest,
)
from tests.hypervisor.handmade import RO, RW

EBUSY, ERANGE, ENOMEM = (-int(e) for e in (Errno.EBUSY, Errno.ERANGE, Errno.ENOMEM))
SUB_PAGE = int(Gtf.sub_page)
SOURCE, DEST = 1, 2


@pytest.fixture
def third(world):
    """A further domain, which ends before the world is looked at."""
    guest = Guest(world.hv)
    yield guest
    if guest.domain.exit is None:
        world.end(guest)


# -- switching -----------------------------------------------------------------------------------


def test_a_switch_keeps_the_first_eight_entries(world, giver, taker):
    giver.grant(7, 0, taker, PERMIT | Gtf.readonly)
    giver.grant(8, 1, taker)
    handle = taker.mapped(giver, 7, 30, HOST | READONLY)
    giver.use_version_2()
    world.check()
    table = giver.hv.grants.table(giver.domain)
    assert table.entry(7)[:3] == (PERMIT | Gtf.readonly, taker.id, giver.mfn(0))
    assert table.entry(8).flags == 0
    assert (giver.status(7), giver.status(8)) == (Gtf.reading, 0)
    assert giver.set_version(1) == (EBUSY, (2,))
    assert giver.update(STATUS_PAGE, 0) == 0
    assert giver.set_version(1) == (0, (1,))
    assert giver.flags(7) == PERMIT | Gtf.readonly | Gtf.reading
    world.check()
    assert taker.unmap(handle, 30) == 0
    assert giver.flags(7) == PERMIT | Gtf.readonly


@pytest.mark.parametrize("version", [0, 3, 0xFFFF_FFFF])
def test_no_other_version(giver, version):
    assert giver.set_version(version) == (EINVAL, (1,))


def test_no_switch_while_an_entry_is_in_use(world, giver, taker):
    giver.grant(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert giver.set_version(2) == (EBUSY, (1,))
    assert taker.unmap(handle, 30) == 0
    giver.use_version_2()
    giver.grant2(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert giver.update(STATUS_PAGE, 0) == 0
    assert giver.set_version(1) == (EBUSY, (2,))
    assert taker.unmap(handle, 30) == 0
    assert giver.set_version(1) == (0, (1,))
    world.check()


def test_what_version_1_cannot_say(giver, taker):
    assert giver.set_version(2) == (0, (2,))
    giver.entry2_set(3, PERMIT, taker.id, 1 << 32)
    assert giver.set_version(1) == (ERANGE, (2,))
    giver.pass_on(3, taker, taker, 8)
    assert giver.set_version(1) == (ERANGE, (2,))
    giver.entry2_set(3, int(Gtf.accept_transfer), taker.id, 1)
    assert giver.set_version(1) == (0, (1,))
    assert giver.flags(3) == 0


def test_status_frames_follow_the_table(world, giver, taker):
    assert giver.status_frames(0) == (0, [])
    assert giver.status_frames(1)[0] == GntSt.general_error
    assert giver.setup(8)[0] == 0
    assert giver.set_version(2) == (0, (2,))
    (first,) = giver.status_frames(1)[1]
    assert giver.status_frames(2)[0] == GntSt.general_error
    assert giver.setup(9)[0] == 0
    frames = giver.status_frames(2)[1]
    assert frames[0] == first
    assert giver.setup(64)[0] == 0
    assert len(set(giver.status_frames(8)[1])) == 8
    assert giver.status_frames(9)[0] == GntSt.general_error
    assert giver.status_frames(1, taker.id)[0] == GntSt.permission_denied
    assert giver.status_frames(1, 77)[0] == GntSt.bad_domain
    assert giver.status_frames(1, where=WILD)[0] == GntSt.bad_virt_addr
    world.check()
    free = world.hv.frames.free
    assert giver.set_version(1) == (0, (1,))
    assert world.hv.frames.free == free + 8


def test_a_switch_without_memory(world, giver):
    hv = world.hv
    taken = hv.frames.allocate_many(hv.frames.free, DomId.XEN, 0)
    assert giver.set_version(2) == (ENOMEM, (1,))
    hv.frames.release(taken.pop())
    assert giver.set_version(2) == (0, (2,))
    assert giver.setup(9)[0] == GntSt.general_error
    world.check()
    for mfn in taken:
        hv.frames.release(mfn)
    assert giver.setup(9)[0] == 0


def test_status_frames_are_nobody_elses_and_no_tables(world, giver, taker):
    giver.use_version_2()
    (status,) = giver.status_frames(1)[1]
    assert taker.update(30, status << PAGE_SHIFT | RO) < 0
    assert giver.hv.paging.pin(status, 1, giver.domain) == EINVAL
    giver.grant2(8, STATUS_PAGE, taker)
    handle = taker.mapped(giver, 8, 30)
    assert giver.update(STATUS_PAGE, 0) == 0
    world.check()
    assert giver.set_version(1) == (EBUSY, (2,)), "entry 8 is in use"
    world.end(giver)
    assert taker.unmap(handle, 30) == 0


# -- entries -------------------------------------------------------------------------------------


def test_map_and_unmap(world, giver, taker):
    giver.use_version_2()
    giver.grant2(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    assert (giver.status(8), taker.mfn(30)) == (BITS, giver.mfn(0))
    world.check()
    assert taker.unmap(handle, 30) == 0
    assert giver.status(8) == 0
    giver.grant2(255, 0, taker)
    assert taker.unmap(taker.mapped(giver, 255, 30), 30) == 0
    assert taker.map(giver, 256, 30)[0] == GntSt.bad_gntref


def test_part_of_a_frame(giver, taker):
    giver.use_version_2()
    giver.write(giver.va(0) + 96, bytes(range(64)))
    giver.grant2(8, 0, taker, PERMIT | SUB_PAGE, start=100, length=20)
    assert taker.map(giver, 8, 30, HOST | READONLY)[0] == GntSt.general_error
    to = (taker.mfn(0), SELF, 0)
    assert taker.copy((8, giver.id, 100), to, 20, SOURCE) == 0
    assert taker.read(taker.va(0), 20) == bytes(range(4, 24))
    for offset, length in ((99, 4), (118, 4), (120, 1), (0, 4096)):
        assert taker.copy((8, giver.id, offset), to, length, SOURCE) == GntSt.general_error
    assert taker.copy(to, (8, giver.id, 119), 1, DEST) == 0
    assert giver.status(8) == 0


def test_the_owner_may_not_change_its_mind_while_it_is_in_use(giver, taker):
    giver.use_version_2()
    giver.grant2(8, 0, taker)
    handle = taker.mapped(giver, 8, 30)
    giver.grant2(8, 1, taker, PERMIT | SUB_PAGE, 0, 8)
    second = taker.mapped(giver, 8, 31)
    assert taker.mfn(31) == giver.mfn(0)
    assert taker.copy((8, giver.id, 100), (taker.mfn(0), SELF, 0), 8, SOURCE) == 0
    assert taker.unmap(handle, 30) == taker.unmap(second, 31) == 0


# -- passed on -----------------------------------------------------------------------------------


@pytest.fixture
def chain(giver, taker, third):
    """``giver`` grants to ``third``, which passes it on to ``taker``."""
    third.use_version_2()
    giver.grant(8, 0, third)
    third.pass_on(9, taker, giver, 8)
    giver.write(giver.va(0), b"from afar")


def test_copies_of_what_was_passed_on(world, chain, giver, taker, third):
    to = (taker.mfn(0), SELF, 0)
    assert taker.copy((9, third.id, 0), to, 9, SOURCE) == 0
    assert taker.read(taker.va(0), 9) == b"from afar"
    taker.write(taker.va(0), b"and back.")
    assert taker.copy(to, (9, third.id, 50), 9, DEST) == 0
    assert giver.read(giver.va(0) + 50, 9) == b"and back."
    assert (giver.flags(8), third.status(9)) == (PERMIT, 0)
    assert taker.map(third, 9, 30)[0] == GntSt.general_error
    world.check()


def test_a_hold_of_what_was_passed_on(world, chain, giver, taker, third):
    grants = world.hv.grants
    status, key = grants.hold(third.domain, 9, taker.id, readonly=False)
    assert (status, grants.held(key)) == (0, giver.mfn(0))
    assert (giver.flags(8), third.status(9)) == (PERMIT | BITS, BITS)
    world.check()
    again = grants.hold(third.domain, 9, taker.id, readonly=True)
    assert again[0] == 0
    grants.release(key)
    assert (giver.flags(8), third.status(9)) == (PERMIT | Gtf.reading, Gtf.reading)
    giver.grant(10, 1, third)
    third.pass_on(9, taker, giver, 10)
    assert grants.hold(third.domain, 9, taker.id, readonly=True)[0] == GntSt.general_error
    grants.release(again[1])
    assert (giver.flags(8), giver.flags(10), third.status(9)) == (PERMIT, PERMIT, 0)
    world.check()


def test_what_is_passed_on_may_be_part_of_a_frame(giver, taker, third):
    giver.use_version_2()
    third.use_version_2()
    giver.grant2(8, 0, third, PERMIT | SUB_PAGE | Gtf.readonly, 10, 20)
    third.pass_on(9, taker, giver, 8)
    to = (taker.mfn(0), SELF, 0)
    assert taker.copy((9, third.id, 10), to, 20, SOURCE) == 0
    assert taker.copy((9, third.id, 9), to, 20, SOURCE) == GntSt.general_error
    assert taker.copy(to, (9, third.id, 10), 1, DEST) == GntSt.general_error
    assert (giver.status(8), third.status(9)) == (0, 0)


def test_passing_on_ends_after_one_step(giver, taker, third):
    for guest in (giver, third):
        guest.use_version_2()
    taker.grant(8, 0, giver)
    giver.pass_on(9, third, taker, 8)
    third.pass_on(10, taker, giver, 9)
    to = (taker.mfn(1), SELF, 0)
    assert taker.copy((10, third.id, 0), to, 8, SOURCE) == GntSt.general_error
    third.pass_on(10, third, third, 10)
    assert third.copy((10, third.id, 0), (third.mfn(0), SELF, 0), 8, SOURCE) < 0
    assert (giver.status(9), third.status(10)) == (0, 0)


@pytest.mark.parametrize(
    ("user", "owner", "ref", "flags"),
    [(0, None, 8, 0), (None, 0, 8, 0), (None, 77, 8, 0), (None, None, 9, 0), (None, None, 600, 0)],
)
def test_what_cannot_be_passed_on(chain, giver, taker, third, user, owner, ref, flags):
    class Named:
        def __init__(self, number):
            self.id = number

    whom = taker if user is None else Named(user)
    third.pass_on(9, whom, giver if owner is None else Named(owner), ref, flags)
    assert taker.copy((9, third.id, 0), (taker.mfn(0), SELF, 0), 8, SOURCE) < 0
    assert third.status(9) == 0
    assert giver.flags(8) == PERMIT


def test_the_first_owner_ends_meanwhile(world, chain, giver, taker, third):
    status, key = world.hv.grants.hold(third.domain, 9, taker.id, readonly=True)
    assert status == 0
    world.end(giver)
    assert taker.copy((9, third.id, 0), (taker.mfn(0), SELF, 0), 8, SOURCE) < 0
    world.hv.grants.release(key)
    assert third.status(9) == 0
    world.check()


def test_the_table_itself_is_the_owners_memory(giver, taker):
    """An owner that maps nothing of it cannot be hurt by what is left in it."""
    giver.use_version_2()
    assert giver.update(TABLE_PAGE, 0) == 0
    with pytest.raises(GuestFault):
        giver.grant2(8, 0, taker)
    assert giver.update(TABLE_PAGE, giver.setup(1)[1][0] << PAGE_SHIFT | RW) == 0
    giver.grant2(8, 0, taker)
    assert taker.unmap(taker.mapped(giver, 8, 30), 30) == 0
