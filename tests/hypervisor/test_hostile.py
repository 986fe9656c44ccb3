"""Attacks by hypercall, one a test: each was, or could have been, a hole.

A guest may say anything. Whatever it says, there is no Python error, the audit is clean, and what
is not its own stays out of its reach.
"""

import struct
from collections.abc import Iterator

import pytest

from emu.cpu import R10, RBP, RBX, RDI, RDX, RSI
from emu.paging import PTE_G, PTE_P
from emu.units import ENTRIES, PAGE_SHIFT, PAGE_SIZE
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
from hypervisor.errors import Preempted
from hypervisor.frames import FREE
from hypervisor.hypervisor import Hypervisor
from hypervisor.paging import GUEST_KERNEL
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.tiny import SPARE, Tiny

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
    assert guest.update(PAGES, wanted | 1 << bit) in (-Errno.EINVAL, -Errno.EPERM)
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
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EBUSY
    assert victim.get_frame() == shared
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EBUSY
    assert victim.update(PAGES, shared << PAGE_SHIFT | RW) == 0
    assert victim.share(PAGES) == 0
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, space.l4) == -Errno.EBUSY


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


# -- work without end --------------------------------------------------------------------------


def again(guest: Handmade, number: int, *arguments: int) -> tuple[int, int]:
    """Make a hypercall as often as it asks for it; its answer, and how often that was."""
    at = list(arguments) + [0] * (6 - len(arguments))
    for times in range(1, 10_000):
        try:
            answer = guest.hv.dispatch.invoke(guest.domain, number, at)
        except Preempted as more:
            at = [*more.arguments, *at[len(more.arguments) :]]
            continue
        assert answer is not None
        return answer, times
    raise AssertionError("it never ends")


def alias(lair: Lair, page: int, count: int) -> int:
    """Map a page of the attacker's at ``count`` addresses in a row; the first of them."""
    guest, hv = lair.guest, lair.hv
    l1, l2 = guest.take(2)
    words = hv.machine.memory.array
    words[l1] = guest.mfn(page) << PAGE_SHIFT | RW
    words[l2] = l1 << PAGE_SHIFT | RW
    assert count <= ENTRIES * ENTRIES
    assert hv.paging.update_entry(guest.space.l3, 2, l2 << PAGE_SHIFT | RW, guest.domain) == 0
    return 2 << 30


def test_an_exchange_of_the_same_frame_again_and_again(lair: Lair) -> None:
    """Input and output list are one page, mapped everywhere: what comes out goes in next."""
    guest = lair.guest
    at = alias(lair, 0, 64 * 512)
    mfns = [guest.get_frame() for _ in range(4)]
    guest.write(at, struct.pack("<4Q", *mfns) * 128)
    one = struct.pack("<QQIIHxxxxxx", at, 8192, 0, 0, DomId.SELF)
    guest.write(guest.va(1), one * 2 + struct.pack("<Q", 0))
    arguments = (XenMem.exchange, guest.va(1))
    answer, times = again(guest, Hypercall.memory_op, *arguments)
    exchanged = struct.unpack("<Q", guest.read(guest.va(1) + 64, 8))[0]
    assert (answer == 0 and times > 1) or exchanged < 8192


def test_a_batch_goes_on_where_it_was(lair: Lair) -> None:
    guest = lair.guest
    count = 100_000
    at = alias(lair, 0, 512)
    request = struct.pack("<QQ", guest.mfn(2) << PAGE_SHIFT, 7)
    guest.write(at, request * 256)
    done = guest.va(1)
    answer, times = again(guest, Hypercall.mmu_update, at, count, done, DomId.SELF)
    assert answer == 0
    assert times > 1
    assert struct.unpack("<I", guest.read(done, 4)) == (count,)


def test_pinning_large_trees_over_and_over(lair: Lair) -> None:
    """Each pin and unpin goes through a whole tree: a batch of them is cut into slices."""
    guest = lair.guest
    at = alias(lair, 0, 512)
    space = guest.new_space([guest.mfn(3) << PAGE_SHIFT | RO])
    assert guest.mmuext(MmuExt.UNPIN_TABLE, space.l4) == 0
    pin = struct.pack("<I4xQQ", MmuExt.PIN_L4_TABLE, space.l4, 0)
    unpin = struct.pack("<I4xQQ", MmuExt.UNPIN_TABLE, space.l4, 0)
    guest.write(at, ((pin + unpin) * 86)[:PAGE_SIZE])
    answer, times = again(guest, Hypercall.mmuext_op, at, 160, 0, DomId.SELF)
    assert answer == 0
    assert times > 1


def test_a_multicall_of_large_batches(lair: Lair) -> None:
    guest = lair.guest
    at = alias(lair, 0, 512)
    request = struct.pack("<QQ", guest.mfn(2) << PAGE_SHIFT, 7)
    guest.write(at, request * 256)
    one = struct.pack("<8Q", Hypercall.mmu_update, 99, at, 40_000, 0, DomId.SELF, 0, 0)
    guest.write(guest.va(1), one * 3)
    answer, times = again(guest, Hypercall.multicall, guest.va(1), 3)
    assert answer == 0
    assert times > 3
    raw = guest.read(guest.va(1), 64 * 3)
    assert [struct.unpack_from("<Q", raw, 64 * i + 8)[0] for i in range(3)] == [0, 0, 0]


def test_a_large_call_by_guest_code_ends_its_slice() -> None:
    """It is made again where it stopped, an instruction each time, and in between others run."""
    tiny = Tiny("mov eax, 1\n syscall\n mov rbx, rax\n mov rbp, 1")
    hv = tiny.hv
    l1, l2, target = tiny.take(3)
    hv.machine.memory.array[l1] = tiny.mfn(SPARE) << PAGE_SHIFT | RW
    hv.machine.memory.array[l2] = l1 << PAGE_SHIFT | RW
    assert hv.paging.update_entry(tiny.space.l3, 2, l2 << PAGE_SHIFT | RW, tiny.domain) == 0
    tiny.write(tiny.va(SPARE), struct.pack("<QQ", target << PAGE_SHIFT, 7) * 256)
    count = 1 << 18
    tiny.words[RDI], tiny.words[RSI] = 2 << 30, count
    tiny.words[RDX], tiny.words[R10] = tiny.scratch, DomId.SELF
    slices = 0
    while not tiny.words[RBP]:
        hv.run(2)
        slices += 1
        assert slices < 100
        if slices == 2:
            assert 0 < tiny.word(tiny.scratch) & 0xFFFF_FFFF < count
    assert slices > 4
    assert tiny.words[RBX] == 0
    assert tiny.word(tiny.scratch) & 0xFFFF_FFFF == count
    assert hv.machine.memory.words[target * ENTRIES] == 7


# -- what opaque sharing tells -----------------------------------------------------------------


def test_opaque_sharing_gives_frames_that_cannot_be_foreseen() -> None:
    """A guest frees a frame and shares a page: did it get that very frame, its content was new."""
    hv = Hypervisor(Settings(machine_memory=4 << 20, opaque=True, seed=3))
    guest = Handmade(hv, PAGES)
    foreseen = 0
    for round_ in range(8):
        spare, page = guest.get_frame(), round_ % PAGES
        assert spare is not None
        assert guest.give_back(spare) == 1
        guest.update(page, (guest.take(1)[0] << PAGE_SHIFT) | RW)
        guest.write(guest.va(page), struct.pack("<Q", round_ + 1))
        assert guest.share(page) == 0
        foreseen += guest.mfn(page) == spare
        shared = guest.mfn(page)
        assert guest.update(page, 0) == 0
        foreseen += guest.get_frame() == shared
    assert foreseen <= 1
    assert audit(hv) == []
