"""``memory_op``, and the small hypercalls that only answer questions."""

import struct

import pytest

from emu.paging import PTE_P, PTE_RW, PTE_US
from emu.units import MFN
from hypervisor.abi import (
    MACH2PHYS_VIRT_START,
    AddToPhysmap,
    ConsoleIo,
    DomId,
    Errno,
    FeatureInfo,
    Hypercall,
    MachphysMapping,
    MachphysMfnList,
    MemoryDomain,
    MemoryExchange,
    MemoryMap,
    MemoryReservation,
    MmuExt,
    PhysdevOp,
    PhysdevSetIopl,
    RemoveFromPhysmap,
    SharedInfo,
    VmAssist,
    XenFeat,
    XenMem,
    XenMemF,
    XenVer,
    offset_of,
)
from hypervisor.errors import Preempted
from hypervisor.frames import ALLOCATED, FREE, INVALID_M2P
from hypervisor.hypercalls.misc import HONOURED
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RESERVATION, Handmade
from tests.hypervisor.kernels import SELF, Caller, Lab

MEMORY = Hypercall.memory_op
WILD = (0x1000, 0xFFFF_8000_0000_0000, 0x8000_0000_0000_0000, (1 << 64) - 8)


@pytest.fixture
def caller() -> Caller:
    lab = Lab(memory=16 << 20)
    one = Caller(lab)
    one.domain.max_pages = 2048
    return one


def reserve(
    caller: Caller, command: int, *numbers: int, order: int = 0, flags: int = 0, domid: int = SELF
) -> int | None:
    at = caller.put_numbers(*numbers)
    record = MemoryReservation(
        extent_start=at,
        nr_extents=len(numbers),
        extent_order=order,
        mem_flags=flags,
        domid=domid,
    )
    return caller.op(MEMORY, command, record)


def own_page(caller: Caller) -> int:
    """MFN of the last page of the domain's memory, which only the boot mapping refers to."""
    return int(caller.hv.frames.owned_by(caller.domain.id)[0])


def test_populate(caller: Caller) -> None:
    frames, domain = caller.hv.frames, caller.domain
    free = frames.free
    assert reserve(caller, XenMem.populate_physmap, 300, 301, 302) == 3
    mfns = caller.numbers(3)
    assert [frames.m2p(MFN(mfn)) for mfn in mfns] == [300, 301, 302]
    assert all(frames.owner[mfn] == domain.id for mfn in mfns)
    assert (domain.pages, frames.free) == (259, free - 3)
    caller.lab.check()


def test_increase_and_decrease(caller: Caller) -> None:
    frames, domain = caller.hv.frames, caller.domain
    free = frames.free
    assert reserve(caller, XenMem.increase_reservation, 0, 0) == 2
    mfns = caller.numbers(2)
    assert all(frames.m2p(MFN(mfn)) == INVALID_M2P for mfn in mfns)
    assert reserve(caller, XenMem.decrease_reservation, *mfns) == 2
    assert (domain.pages, frames.free) == (256, free)
    assert reserve(caller, XenMem.decrease_reservation, mfns[0]) == 0  # not its any more
    nowhere = MemoryReservation(extent_start=0, nr_extents=4, domid=SELF)
    assert caller.op(MEMORY, XenMem.increase_reservation, nowhere) == 4  # no list asked for
    assert domain.pages == 260
    caller.lab.check()


@pytest.mark.parametrize("order", [1, 4, 9])
def test_extents_of_many_frames(caller: Caller, order: int) -> None:
    frames, domain = caller.hv.frames, caller.domain
    free = frames.free
    assert reserve(caller, XenMem.populate_physmap, 1024, order=order) == 1
    (first,) = caller.numbers(1)
    assert first % (1 << order) == 0
    for i in range(1 << order):
        assert frames.owner[first + i] == domain.id
        assert frames.m2p(MFN(first + i)) == 1024 + i
    assert frames.free == free - (1 << order)
    assert first not in frames._free
    caller.lab.check()
    assert reserve(caller, XenMem.decrease_reservation, first, order=order) == 1
    assert frames.free == free
    caller.lab.check()


def test_orders_beyond_the_limit(caller: Caller) -> None:
    for command in (0, 1, 6):
        assert reserve(caller, command, 500, order=10) == 0
        assert reserve(caller, command, 500, order=0xFFFF_FFFF) == 0


def test_maximum_is_respected(caller: Caller) -> None:
    caller.domain.max_pages = 258
    assert reserve(caller, XenMem.populate_physmap, 1, 2, 3, 4) == 2
    assert caller.numbers(4)[2:] == [3, 4]
    assert reserve(caller, XenMem.increase_reservation, 0) == 0
    assert reserve(caller, XenMem.increase_reservation, 0, order=1) == 0
    caller.lab.check()


def test_machine_memory_used_up(caller: Caller) -> None:
    caller.domain.max_pages = 1 << 20
    frames = caller.hv.frames
    want = frames.free + 5
    record = MemoryReservation(extent_start=0, nr_extents=want, domid=SELF)
    assert caller.op(MEMORY, XenMem.increase_reservation, record) == want - 5
    assert frames.free == 0
    assert reserve(caller, XenMem.populate_physmap, 5) == 0
    assert reserve(caller, XenMem.populate_physmap, 5, order=3) == 0
    caller.lab.check()


def test_address_width(caller: Caller) -> None:
    """Frames that must lie below 2**22 bytes."""
    assert reserve(caller, XenMem.populate_physmap, 400, 401, flags=22) == 2
    assert all(mfn < 1 << 10 for mfn in caller.numbers(2))
    assert reserve(caller, XenMem.populate_physmap, 400, flags=40) == 1
    assert reserve(caller, XenMem.populate_physmap, 400, flags=12) == 0
    assert reserve(caller, XenMem.populate_physmap, 400, flags=13) == 0  # Xen's own frames
    on_demand = int(XenMemF.populate_on_demand)
    assert reserve(caller, XenMem.populate_physmap, 400, flags=on_demand) == 0
    caller.lab.check()


def test_start_extent(caller: Caller) -> None:
    at = caller.put_numbers(700, 701, 702)
    record = MemoryReservation(extent_start=at, nr_extents=3, domid=SELF)
    assert caller.op(MEMORY, XenMem.populate_physmap | 2 << 6, record) == 3
    assert caller.numbers(3)[:2] == [700, 701]
    assert caller.domain.pages == 257
    assert caller.op(MEMORY, XenMem.populate_physmap | 9 << 6, record) == 9
    assert caller.op(MEMORY, XenMem.current_reservation | 1 << 6, record) == -Errno.ENOSYS


def test_wild_arguments_of_reservations(caller: Caller) -> None:
    for command in (0, 1, 6):
        for at in WILD:
            assert caller.call(MEMORY, command, at) == 0
            record = MemoryReservation(extent_start=at, nr_extents=1, domid=SELF)
            assert caller.op(MEMORY, command, record) == 0
        record = MemoryReservation(extent_start=caller.scratch, nr_extents=1 << 40, domid=SELF)
        assert caller.op(MEMORY, command, record) == 0
        assert reserve(caller, command, 5, domid=77) == 0
    # A list that cannot be written must not cost a frame.
    record = MemoryReservation(extent_start=caller.tables, nr_extents=1, domid=SELF)
    assert caller.op(MEMORY, XenMem.populate_physmap, record) == 0
    assert caller.op(MEMORY, XenMem.increase_reservation, record) == 0
    assert caller.domain.pages == 256
    for wrong in (0, 1, caller.hv.frames.total, (1 << 64) - 1, caller.domain.shared_info):
        assert reserve(caller, XenMem.decrease_reservation, wrong) == 0
    caller.lab.check()


def test_other_domains_memory(caller: Caller) -> None:
    other = Caller(caller.lab)
    theirs = own_page(other)
    assert reserve(caller, XenMem.decrease_reservation, theirs) == 0
    assert reserve(caller, XenMem.populate_physmap, 1, domid=other.domain.id) == 0
    caller.domain.privileged = True
    assert reserve(caller, XenMem.decrease_reservation, theirs, domid=other.domain.id) == 1
    # Its boot mapping still holds it, and it counts until that is gone.
    assert other.domain.pages == 256
    assert not other.hv.frames.flags[theirs] & ALLOCATED
    caller.lab.check()


def test_a_frame_given_back_while_mapped_lives_until_it_is_unmapped(caller: Caller) -> None:
    hv, domain = caller.hv, caller.domain
    mfn = own_page(caller)
    va = caller.image.virt_base + (hv.frames.m2p(MFN(mfn)) << 12)
    hv.guest.write(domain, va, b"still here")
    free = hv.frames.free
    assert reserve(caller, XenMem.decrease_reservation, mfn) == 1
    # It counts as long: otherwise a domain could have any number of pages.
    assert domain.pages == 256
    assert hv.frames.free == free
    assert hv.guest.read(domain, va, 10) == b"still here"
    caller.lab.check()
    assert caller.call(Hypercall.update_va_mapping, va, 0, 0) == 0
    assert domain.pages == 255
    assert hv.frames.free == free + 1
    assert hv.frames.owner[mfn] == FREE
    assert hv.machine.memory.frame_bytes(MFN(mfn)) == bytes(4096)
    caller.lab.check()


def test_a_pinned_table_given_back_lives_until_it_is_unpinned(caller: Caller) -> None:
    hv, domain = caller.hv, caller.domain
    assert reserve(caller, XenMem.populate_physmap, 900) == 1
    (table,) = caller.numbers(1)
    pin = struct.pack("<I4xQQ", MmuExt.PIN_L1_TABLE, table, 0)
    assert caller.call(Hypercall.mmuext_op, caller.put(pin), 1, 0, SELF) == 0
    caller.lab.check()
    free = hv.frames.free
    assert reserve(caller, XenMem.decrease_reservation, table) == 1
    assert hv.frames.free == free
    caller.lab.check()
    unpin = struct.pack("<I4xQQ", MmuExt.UNPIN_TABLE, table, 0)
    assert caller.call(Hypercall.mmuext_op, caller.put(unpin), 1, 0, SELF) == 0
    assert hv.frames.free == free + 1
    caller.lab.check()
    # Pinned after it was given back, and kept alive by an entry: destruction unpins it.
    mfn = own_page(caller)
    va = caller.image.virt_base + (hv.frames.m2p(MFN(mfn)) << 12)
    assert caller.call(Hypercall.update_va_mapping, va, mfn << 12 | PTE_P | PTE_US, 0) == 0
    assert reserve(caller, XenMem.decrease_reservation, mfn) == 1
    pin = struct.pack("<I4xQQ", MmuExt.PIN_L1_TABLE, mfn, 0)
    assert caller.call(Hypercall.mmuext_op, caller.put(pin), 1, 0, SELF) == 0
    caller.lab.check()
    caller.call(Hypercall.sched_op_compat, 2, 0)
    hv.reap()
    assert domain.id not in hv.domains
    caller.lab.check_empty()


def exchange(caller: Caller, given: list[int], wanted: list[int], orders=(0, 0), **more):
    source = caller.put_numbers(*given, offset=4096)
    target = caller.put_numbers(*wanted, offset=8192)
    record = MemoryExchange()
    record.in_ = MemoryReservation(
        extent_start=source, nr_extents=len(given), extent_order=orders[0], domid=SELF
    )
    record.out = MemoryReservation(
        extent_start=target, nr_extents=len(wanted), extent_order=orders[1], domid=SELF, **more
    )
    return caller.op(MEMORY, XenMem.exchange, record), record.nr_exchanged


def test_exchange_of_single_frames(caller: Caller) -> None:
    frames = caller.hv.frames
    assert reserve(caller, XenMem.populate_physmap, 500, 501) == 2
    old = caller.numbers(2)
    free = frames.free
    assert exchange(caller, old, [500, 501]) == (0, 2)
    new = caller.numbers(2, offset=8192)
    assert len(set(new)) == 2
    assert new[0] not in old  # the second may be what the first one gave back
    assert [frames.m2p(MFN(mfn)) for mfn in new] == [500, 501]
    assert (frames.free, caller.domain.pages) == (free, 258)
    caller.lab.check()


def test_exchange_for_larger_and_smaller_extents(caller: Caller) -> None:
    frames = caller.hv.frames
    pfns = list(range(600, 616))
    assert reserve(caller, XenMem.populate_physmap, *pfns) == 16
    assert exchange(caller, caller.numbers(16), [600, 608], (0, 3)) == (0, 16)
    first, second = caller.numbers(2, offset=8192)
    assert first % 8 == second % 8 == 0
    assert [frames.m2p(MFN(first + i)) for i in range(8)] == pfns[:8]
    caller.lab.check()
    assert exchange(caller, [first, second], pfns, (3, 0)) == (0, 2)
    caller.lab.check()
    assert caller.domain.pages == 256 + 16


def test_exchange_refusals(caller: Caller) -> None:
    mapped = own_page(caller)
    assert reserve(caller, XenMem.populate_physmap, 500, 501) == 2
    old = caller.numbers(2)
    assert exchange(caller, old, [500], (0, 0)) == (-Errno.EINVAL, 0)
    assert exchange(caller, old, [500, 501], (10, 10)) == (-Errno.EPERM, 0)
    assert exchange(caller, [mapped], [500]) == (-Errno.EINVAL, 0)
    assert exchange(caller, [0], [500]) == (-Errno.EINVAL, 0)
    assert exchange(caller, [1 << 60], [500]) == (-Errno.EINVAL, 0)
    assert exchange(caller, [old[0], old[0]], [500], (0, 1)) == (-Errno.EINVAL, 0)
    assert exchange(caller, [old[0], mapped], [500, 501]) == (-Errno.EINVAL, 1)
    assert exchange(caller, [old[1]], [501], mem_flags=12) == (-Errno.ENOMEM, 0)
    for at in WILD:
        assert caller.call(MEMORY, XenMem.exchange, at) == -Errno.EFAULT
        record = MemoryExchange()
        record.in_ = MemoryReservation(extent_start=at, nr_extents=1, domid=SELF)
        record.out = MemoryReservation(extent_start=at, nr_extents=1, domid=SELF)
        assert caller.op(MEMORY, XenMem.exchange, record) == -Errno.EFAULT
    assert caller.domain.pages == 258
    caller.lab.check()


def test_exchange_without_memory_gives_everything_back(caller: Caller) -> None:
    frames, domain = caller.hv.frames, caller.domain
    assert reserve(caller, XenMem.populate_physmap, *range(500, 516)) == 16
    old = caller.numbers(16)
    domain.max_pages = 1 << 20
    rest = MemoryReservation(extent_start=0, nr_extents=frames.free - 4, domid=SELF)
    caller.op(MEMORY, XenMem.increase_reservation, rest)
    pages = domain.pages
    assert exchange(caller, old, [500], (0, 4)) == (-Errno.ENOMEM, 0)
    assert (frames.free, domain.pages) == (4, pages)
    caller.lab.check()


def test_questions(caller: Caller) -> None:
    hv, domain = caller.hv, caller.domain
    me = MemoryDomain(domid=SELF)
    assert caller.op(MEMORY, XenMem.current_reservation, me) == 256
    assert caller.op(MEMORY, XenMem.maximum_reservation, me) == 2048
    assert caller.op(MEMORY, XenMem.maximum_gpfn, me) == 0
    at = (domain.shared_info << 12) + offset_of(SharedInfo, "arch")
    hv.machine.memory.words[at >> 3] = 256
    assert caller.op(MEMORY, XenMem.maximum_gpfn, me) == 255
    assert caller.call(MEMORY, XenMem.maximum_ram_page, 0) == hv.frames.total
    other = Caller(caller.lab)
    for command in (XenMem.current_reservation, XenMem.maximum_reservation, XenMem.maximum_gpfn):
        assert caller.call(MEMORY, command, 0x1000) == -Errno.EFAULT
        theirs = MemoryDomain(domid=other.domain.id)
        assert caller.op(MEMORY, command, theirs) == -Errno.EPERM
        assert caller.op(MEMORY, command, MemoryDomain(domid=50)) == -Errno.ESRCH
    mapping = MachphysMapping()
    assert caller.op(MEMORY, XenMem.machphys_mapping, mapping) == 0
    assert mapping.v_start == MACH2PHYS_VIRT_START
    wanted = MachphysMfnList(max_extents=4, extent_start=caller.scratch + 4096)
    assert caller.op(MEMORY, XenMem.machphys_mfn_list, wanted) == 0
    assert wanted.nr_extents == 1
    assert caller.numbers(1) == [hv.frames.m2p_frames[0]]
    room = MemoryMap(nr_entries=10, buffer=caller.scratch + 4096)
    assert caller.op(MEMORY, XenMem.memory_map, room) == 0
    assert room.nr_entries == 1
    assert struct.unpack("<QQI", caller.get(20, 4096)) == (0, 2048 << 12, 1)
    assert caller.op(MEMORY, XenMem.machine_memory_map, room) == -Errno.EPERM
    assert caller.op(MEMORY, XenMem.add_to_physmap, AddToPhysmap(domid=SELF)) == -Errno.EACCES
    gone = RemoveFromPhysmap(domid=SELF, gpfn=1 << 50)
    assert caller.op(MEMORY, XenMem.remove_from_physmap, gone) == -Errno.ENOENT
    assert caller.call(MEMORY, XenMem.get_sharing_shared_pages, 0) == -Errno.EPERM
    assert caller.call(MEMORY, XenMem.get_vnumainfo, 0) == -Errno.EOPNOTSUPP
    for command in (8, 13, 16, 20, 24, 63):
        assert caller.call(MEMORY, command, 0) == -Errno.ENOSYS
    domain.privileged = True
    assert caller.call(MEMORY, XenMem.get_sharing_freed_pages, 0) == 0


def test_a_populated_frame_is_mapped_and_shared_frames_are_not_given_back(caller: Caller) -> None:
    """The copy-on-write cycle's frames: populate, map, share; a shared frame is not its owner's."""
    hv = caller.hv
    assert reserve(caller, XenMem.populate_physmap, 300) == 1
    (mfn,) = caller.numbers(1)
    va = caller.image.virt_base + 200 * 4096
    entry = mfn << 12 | PTE_P | PTE_RW | PTE_US
    assert caller.call(Hypercall.update_va_mapping, va, entry, 0) == 0
    assert caller.call(Hypercall.make_ro_and_share, va, 0x200, 0) == 0
    assert hv.frames.owner[mfn] == DomId.COW
    assert reserve(caller, XenMem.decrease_reservation, mfn) == 0
    assert exchange(caller, [mfn], [300]) == (-Errno.EINVAL, 0)
    caller.lab.check()


# -- console, version, assists ------------------------------------------------------------------


def test_console_io(caller: Caller) -> None:
    number = Hypercall.console_io
    at = caller.put(b"one\r\ntwo\x1b[2J \xff\xc3\xa9\nthree")
    size = len(b"one\r\ntwo\x1b[2J \xff\xc3\xa9\nthree")
    assert caller.call(number, ConsoleIo.write, size, at) == 0
    console = caller.domain.console
    assert console.lines == ["one", "two\\x1b[2J �é"]
    assert console.text().endswith("three")
    assert caller.call(number, ConsoleIo.write, 4, 0x1000) == -Errno.EFAULT
    assert caller.call(number, ConsoleIo.write, 1 << 31, at) == -Errno.EFAULT
    assert caller.call(number, ConsoleIo.read, 1 << 31, at) == -Errno.E2BIG
    assert caller.call(number, 7, 1, at) == -Errno.ENOSYS
    assert caller.call(number, ConsoleIo.read, 10, at) == 0
    assert console.feed(b"hello world") == 11
    assert caller.call(number, ConsoleIo.read, 10, caller.tables) == -Errno.EFAULT
    assert caller.call(number, ConsoleIo.read, 5, at) == 5
    assert caller.get(5) == b"hello"
    assert caller.call(number, ConsoleIo.read, 100, at) == 6
    # More than the guest has mapped: what could be read was written, then -EFAULT.
    assert caller.call(number, ConsoleIo.write, 1 << 30, at) == -Errno.EFAULT


def test_xen_version(caller: Caller) -> None:
    number = Hypercall.xen_version
    assert caller.call(number, XenVer.version, 0) == 4 << 16 | 17
    assert caller.call(number, XenVer.pagesize, 0) == 4096
    info = FeatureInfo(submap_idx=0)
    assert caller.op(number, XenVer.get_features, info) == 0
    assert info.submap >> XenFeat.mmu_pt_update_preserve_ad & 1
    assert not info.submap >> XenFeat.writable_page_tables & 1
    assert not info.submap >> XenFeat.auto_translated_physmap & 1
    assert caller.op(number, XenVer.get_features, FeatureInfo(submap_idx=1)) == -Errno.EINVAL
    for command, size in ((1, 16), (2, 144), (3, 1024), (4, 64), (5, 8), (8, 16), (9, 9)):
        at = caller.put(b"\xaa" * (size + 8), 4096)
        assert caller.call(number, command, at) == 0
        assert caller.get(size + 8, 4096)[size:] == b"\xaa" * 8
        assert caller.get(size, 4096) != b"\xaa" * size
        assert caller.call(number, command, 0x1000) == -Errno.EFAULT
    assert caller.get(9, 4096) == b"<denied>\0"
    assert caller.call(number, XenVer.build_id, 0) == -Errno.EPERM
    caller.domain.privileged = True
    assert caller.call(number, XenVer.build_id, 0) == -Errno.ENODATA
    assert caller.call(number, XenVer.commandline, at) == 0
    assert caller.get(1024, 4096) == bytes(1024)
    assert caller.call(number, 99, caller.scratch) == -Errno.ENOSYS


def test_vm_assist_and_iopl(caller: Caller) -> None:
    for assist in range(64):
        expected = 0 if assist in HONOURED else -Errno.EINVAL
        assert caller.call(Hypercall.vm_assist, 0, assist) == expected
    assert caller.domain.vm_assist == sum(1 << assist for assist in HONOURED)
    assert caller.call(Hypercall.vm_assist, 9, VmAssist.pae_extended_cr3) == -Errno.ENOSYS
    for assist in HONOURED:
        assert caller.call(Hypercall.vm_assist, 1, assist) == 0
    assert caller.domain.vm_assist == 0
    for iopl, answer in ((3, 0), (4, -Errno.EINVAL), (1, 0)):
        order = PhysdevSetIopl(iopl=iopl)
        assert caller.op(Hypercall.physdev_op, PhysdevOp.set_iopl, order) == answer
    assert caller.domain.iopl == 1
    at = caller.put(struct.pack("<QI", PhysdevOp.set_iopl, 2))
    assert caller.call(Hypercall.physdev_op_compat, at) == 0
    assert caller.domain.iopl == 2
    assert caller.call(Hypercall.physdev_op, PhysdevOp.set_iopl, 8) == -Errno.EFAULT
    assert caller.call(Hypercall.physdev_op, PhysdevOp.eoi, caller.scratch) == -Errno.ENOSYS


@pytest.mark.parametrize(("order", "at_once"), [(0, 1 << 12), (1, 513)])
@pytest.mark.parametrize("width", [64, 32])
def test_long_reservations_go_on_in_the_next_slice(width, order, at_once) -> None:
    """An endless list, all of it one page, is cut; the bits above the command say how far it is."""
    hv = Hypervisor(Settings(machine_memory=32 << 20))
    guest = Handmade(hv, 1, max_pages=7000, width=width)
    count = 5000 >> 2 * order
    guest.write(guest.scratch, struct.pack(RESERVATION[width], 0, count, order, 0, SELF))
    arguments = [int(XenMem.increase_reservation), int(guest.scratch)]
    before = guest.domain.pages
    with pytest.raises(Preempted) as again:
        hv.dispatch.invoke(guest.domain, MEMORY, arguments)
    done = again.value.arguments[0] >> 6
    assert done == at_once
    assert again.value.arguments == (XenMem.increase_reservation | done << 6, guest.scratch)
    assert guest.domain.pages == before + (done << order)
    arguments = list(again.value.arguments)
    hv.work = 0
    while True:
        try:
            assert hv.dispatch.invoke(guest.domain, MEMORY, arguments) == count
        except Preempted as more:
            arguments = list(more.arguments)
        else:
            break
    assert guest.domain.pages == before + (count << order)
