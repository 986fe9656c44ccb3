"""Attacks by hypercall, one a test: each was, or could have been, a hole.

A guest may say anything. Whatever it says, there is no Python error, the audit is clean, and what
is not its own stays out of its reach.
"""

import struct
from collections.abc import Iterator

import pytest

from emu.paging import PTE_G, PTE_P
from emu.units import PAGE_SHIFT
from hypervisor.abi import (
    DomId,
    Errno,
    EvtchnOp,
    Hypercall,
    MmuExt,
    SchedOp,
    VcpuOp,
    Virq,
    XenMem,
)
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.frames import FREE
from hypervisor.hypervisor import Hypervisor
from hypervisor.paging import GUEST_KERNEL
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.tiny import Tiny

PAGES = 8


class Lair:
    """A machine with an attacker and a victim; afterwards everything must be as before."""

    def __init__(self) -> None:
        self.hv = Hypervisor(Settings(machine_memory=4 << 20, seed=7))
        self.free = self.hv.frames.free
        self.guest = Handmade(self.hv, PAGES)
        self.victim = Handmade(self.hv, PAGES)

    def check(self) -> None:
        assert audit(self.hv) == []

    def end(self) -> None:
        self.check()
        for guest in (self.guest, self.victim):
            self.hv.end(guest.domain, Exit("destroyed"))
        assert not self.hv.domains
        assert self.hv.frames.free == self.free
        assert not any(self.hv.frames.linear)
        self.check()


@pytest.fixture
def lair() -> Iterator[Lair]:
    """Checked before and after all domains are gone."""
    made = Lair()
    yield made
    made.end()


def multicall(guest: Handmade, *calls: tuple[int, ...]) -> list[int]:
    """The results, as unsigned numbers, of hypercalls made in one multicall."""
    raw = b"".join(
        struct.pack("<8Q", call[0], 0, *call[1:], *[0] * (7 - len(call))) for call in calls
    )
    guest.write(guest.va(0), raw)
    assert guest.call(Hypercall.multicall, guest.va(0), len(calls)) == 0
    out = guest.read(guest.va(0), len(raw))
    return [struct.unpack_from("<Q", out, 64 * i + 8)[0] for i in range(len(calls))]


# -- numbers that do not fit -------------------------------------------------------------------


def test_multicall_stores_results_that_are_no_errnos(lair: Lair) -> None:
    guest = lair.guest
    address = 0xFFFF_9000_0000_0000
    lair.hv.machine.memory.array[guest.domain.shared_info] = (1 << 64) - 1
    guest.write(guest.va(1), struct.pack("<H", DomId.SELF))
    results = multicall(
        guest,
        (Hypercall.set_debugreg, 0, address),
        (Hypercall.get_debugreg, 0),
        (Hypercall.memory_op, XenMem.maximum_gpfn, guest.va(1)),
    )
    assert results == [0, address, (1 << 64) - 2]


def test_a_time_area_before_the_domain_ever_ran(lair: Lair) -> None:
    guest = lair.guest
    guest.write(guest.va(1), struct.pack("<Q", guest.va(2)))
    call = VcpuOp.register_vcpu_time_memory_area
    assert guest.call(Hypercall.vcpu_op, call, 0, guest.va(1)) == 0


# -- frames that the hypervisor itself stores into ---------------------------------------------


@pytest.mark.parametrize("command", [MmuExt.PIN_L1_TABLE, MmuExt.PIN_L4_TABLE])
def test_shared_info_is_never_a_page_table(lair: Lair, command: MmuExt) -> None:
    """The hypervisor stores CR2 into it, so that a fault would forge an entry."""
    guest = lair.guest
    lair.hv.machine.memory.array[guest.domain.shared_info] = 0
    assert guest.mmuext(command, guest.domain.shared_info) == -Errno.EINVAL
    lair.hv.traps.set_cr2(guest.domain, lair.victim.mfn(0) << PAGE_SHIFT | RW)


def test_shared_info_is_never_a_descriptor_page(lair: Lair) -> None:
    guest = lair.guest
    lair.hv.machine.memory.array[guest.domain.shared_info] = 0
    guest.write(guest.va(0), struct.pack("<Q", guest.domain.shared_info))
    assert guest.call(Hypercall.set_gdt, guest.va(0), 512) == -Errno.EINVAL


def test_shared_info_can_be_mapped_and_is_not_shared(lair: Lair) -> None:
    guest = lair.guest
    assert guest.update(PAGES, guest.domain.shared_info << PAGE_SHIFT | RW) == 0
    assert guest.share(PAGES) == -Errno.EPERM
    lair.check()


def test_another_domains_frames_outlive_it_while_a_privileged_domain_maps_them(lair: Lair) -> None:
    guest, victim = lair.guest, lair.victim
    guest.domain.privileged = True
    taken = [victim.mfn(0), victim.domain.shared_info]
    for page, mfn in enumerate(taken):
        call = Hypercall.update_va_mapping_otherdomain
        entry = mfn << PAGE_SHIFT | RW
        assert guest.call(call, guest.va(PAGES + page), entry, 0, victim.domain.id) == 0
    lair.hv.end(victim.domain, Exit("destroyed"))
    lair.check()
    guest.write(guest.va(PAGES), b"mine")
    for page in range(len(taken)):
        assert guest.update(PAGES + page, 0) == 0
        lair.check()
    guest.domain.privileged = False


# -- more memory than it may have --------------------------------------------------------------


def test_pages_given_back_but_kept_mapped_still_count(lair: Lair) -> None:
    guest = lair.guest
    domain = guest.domain
    domain.max_pages = domain.pages + 3
    for page in range(PAGES, PAGES + 3):
        mfn = guest.get_frame()
        assert mfn is not None
        assert guest.update(page, mfn << PAGE_SHIFT | RW) == 0
        assert guest.give_back(mfn) == 1
    assert guest.get_frame() is None
    lair.check()
    assert guest.update(PAGES, 0) == 0
    assert guest.get_frame() is not None


# -- tables that are unpinned and pinned again -------------------------------------------------


def test_a_table_pinned_again_has_what_the_hypervisor_put_into_it(lair: Lair) -> None:
    """G and the kernel bit are the hypervisor's additions; the guest may leave them there."""
    guest = lair.guest
    mine = guest.mfn(0) << PAGE_SHIFT
    space = guest.new_space([mine | RO, mine | PTE_P])
    before = [guest.entry(i, space) for i in range(2)]
    assert [bits & (PTE_G | GUEST_KERNEL) for bits in before] == [PTE_G, GUEST_KERNEL]
    assert guest.mmuext(MmuExt.UNPIN_TABLE, space.l4) == 0
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == 0
    assert [guest.entry(i, space) for i in range(2)] == before


@pytest.mark.parametrize("bit", [3, 4, 7, 40, 51, 62])
def test_bits_that_no_entry_may_have(lair: Lair, bit: int) -> None:
    guest = lair.guest
    wanted = guest.mfn(0) << PAGE_SHIFT | RO
    assert guest.update(PAGES, wanted) == 0
    assert guest.update(PAGES, wanted | 1 << bit) == -Errno.EINVAL
    assert guest.update(PAGES + 1, wanted | 1 << bit) in (-Errno.EINVAL, -Errno.EPERM)


def test_shared_frames_freed_while_their_table_was_unpinned(lair: Lair) -> None:
    """The entry still names the frame; by then it is free, or somebody else's."""
    guest, victim = lair.guest, lair.victim
    guest.write(guest.va(1), b"secret")
    assert guest.share(1) == 0
    shared = guest.mfn(1)
    space = guest.new_space([shared << PAGE_SHIFT | RO | 0x200])
    assert guest.update(1, 0) == 0
    assert guest.mmuext(MmuExt.UNPIN_TABLE, space.l4) == 0
    assert lair.hv.frames.owner[shared] == FREE
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EINVAL
    assert victim.get_frame() == shared
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EINVAL
    assert victim.update(PAGES, shared << PAGE_SHIFT | RW) == 0
    assert victim.share(PAGES) == 0
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EINVAL


# -- the end of time ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["poll", "singleshot", "watchdog"])
def test_no_guest_moves_the_clock_beyond_its_end(how: str) -> None:
    tiny = Tiny("again: jmp again")
    hv, at = tiny.hv, tiny.scratch
    for timeout in ((1 << 63) - 1, (1 << 64) - 1, 1 << 63):
        if tiny.domain.exit is not None:
            break
        if how == "poll":
            tiny.write(at, struct.pack("<QIIQ", 0, 0, 0, timeout))
            assert tiny.call(Hypercall.sched_op, SchedOp.poll, at) == 0
        elif how == "singleshot":
            tiny.write(at, struct.pack("<IIIxxxx", Virq.TIMER, 0, 0))
            tiny.call(Hypercall.event_channel_op, EvtchnOp.bind_virq, at)
            tiny.write(at, struct.pack("<QII", timeout, 0, 0))
            assert tiny.call(Hypercall.vcpu_op, VcpuOp.set_singleshot_timer, 0, at) == 0
            assert tiny.call(Hypercall.sched_op_compat, SchedOp.block, 0) == 0
        else:
            tiny.write(at, struct.pack("<II", 0, (1 << 32) - 1))
            assert tiny.call(Hypercall.sched_op, SchedOp.watchdog, at) == 1
            tiny.hv.scheduler._skipped = (1 << 63) - 10**9
            tiny.call(Hypercall.sched_op_compat, SchedOp.block, 0)
        hv.run(3_000_000)
        assert hv.scheduler.now() < (1 << 63) + 10**9
