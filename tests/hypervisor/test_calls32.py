"""Hypercalls of 32-bit guests: structures of that width, 64-bit numbers in two registers."""

import struct

import pytest

from emu.units import PAGE_SHIFT
from hypervisor.abi import (
    DomId,
    Errno,
    EvtchnAllocUnbound,
    EvtchnBindIpi,
    EvtchnSend,
    EvtchnStatus,
    Hypercall,
    MemoryMap,
    PlatformParameters,
    Record,
    SchedPoll,
    VcpuRegisterRunstateMemoryArea,
    VmAssist,
    VmAssistCmd,
    XenFeat,
    XenMem,
    XenVer,
    layout,
    size_of,
    to_bytes,
)
from hypervisor.audit import audit
from hypervisor.domain import State
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RESERVATION, RO, RW, Handmade

M2P = 0xF580_0000


class Guest32(Handmade):
    """A 32-bit domain that makes calls with structures."""

    def __init__(self) -> None:
        super().__init__(Hypervisor(Settings(machine_memory=4 << 20)), 8, width=32)
        self.hv.switch_to(self.domain)

    def op(self, number: Hypercall, command: int, record: Record, *rest: int) -> int:
        """A call of a command and a structure of this width, which takes what came back."""
        self.write(self.scratch, to_bytes(record))
        answer = self.call(number, command, *rest, self.scratch)
        new = type(record).from_buffer_copy(self.read(self.scratch, size_of(type(record))))
        for name, *_ in record._fields_:
            setattr(record, name, getattr(new, name))
        return answer

    def numbers(self, count: int, offset: int = 256) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.read(self.scratch + offset, 4 * count))

    def reserve(self, command: XenMem, *numbers: int, order: int = 0) -> int:
        at = self.scratch + 256
        self.write(at, struct.pack(f"<{len(numbers)}I", *numbers))
        raw = struct.pack(RESERVATION[32], at, len(numbers), order, 0, DomId.SELF)
        self.write(self.scratch, raw)
        return self.call(Hypercall.memory_op, command, self.scratch)


@pytest.fixture
def guest() -> Guest32:
    return Guest32()


# -- memory ----------------------------------------------------------------------------------


def test_reservations_have_32_bit_extents(guest: Guest32) -> None:
    pages = guest.domain.pages
    assert guest.reserve(XenMem.populate_physmap, 0x111, 0x222) == 2
    given = guest.numbers(2)
    frames = guest.hv.frames
    assert [frames.owner[mfn] for mfn in given] == [guest.domain.id] * 2
    assert [frames.m2p(mfn) for mfn in given] == [0x111, 0x222]
    assert [int(frames.m2p32_column[mfn]) for mfn in given] == [0x111, 0x222]
    assert guest.domain.pages == pages + 2
    assert guest.reserve(XenMem.decrease_reservation, *given) == 2
    assert int(frames.m2p32_column[given[0]]) == 0xFFFF_FFFF
    assert guest.domain.pages == pages
    assert guest.reserve(XenMem.decrease_reservation, given[0]) == 0
    assert audit(guest.hv) == []


def test_exchange(guest: Guest32) -> None:
    given = [guest.get_frame(), guest.get_frame()]
    at = guest.scratch + 512
    guest.write(at, struct.pack("<3I", given[0] or 0, given[1] or 0, 0x55))
    raw = struct.pack(RESERVATION[32], at, 2, 0, 0, DomId.SELF)
    raw += struct.pack(RESERVATION[32], at + 8, 1, 1, 0, DomId.SELF) + bytes(4)
    guest.write(guest.scratch, raw)
    assert guest.call(Hypercall.memory_op, XenMem.exchange, guest.scratch) == 0
    assert struct.unpack("<I", guest.read(guest.scratch + 40, 4)) == (2,)
    (first,) = struct.unpack("<I", guest.read(at + 8, 4))
    assert first % 2 == 0
    assert guest.hv.frames.m2p(first + 1) == 0x56
    assert audit(guest.hv) == []


def test_questions_about_memory(guest: Guest32) -> None:
    memory_op = Hypercall.memory_op
    guest.write(guest.scratch, struct.pack("<H", DomId.SELF))
    assert guest.call(memory_op, XenMem.current_reservation, guest.scratch) == guest.domain.pages
    assert guest.call(memory_op, XenMem.maximum_reservation, guest.scratch) == 256
    assert guest.call(memory_op, XenMem.machphys_mapping, guest.scratch) == 0
    assert struct.unpack("<3I", guest.read(guest.scratch, 12)) == (M2P, 0xF680_0000, (1 << 22) - 1)
    guest.write(guest.scratch, struct.pack("<3I", 4, guest.scratch + 256, 99))
    assert guest.call(memory_op, XenMem.machphys_mfn_list, guest.scratch) == 0
    assert struct.unpack("<3I", guest.read(guest.scratch, 12))[2] == 1
    assert guest.numbers(1) == (guest.hv.frames.m2p32_frames[0],)
    record = layout(MemoryMap, 32)(nr_entries=5, buffer=guest.scratch + 256)
    assert guest.op(memory_op, XenMem.memory_map, record) == 0
    assert record.nr_entries == 1
    assert struct.unpack("<QQI", guest.read(guest.scratch + 256, 20)) == (0, 256 << 12, 1)


def test_update_va_mapping_in_two_registers(guest: Guest32) -> None:
    """By registers as they are: the upper half of an entry is an argument of its own."""
    call, invoke = Hypercall.update_va_mapping, guest.hv.dispatch.invoke
    entry = guest.mfn(0) << PAGE_SHIFT | RO | 1 << 63
    registers = [guest.va(0), entry & 0xFFFF_FFFF, entry >> 32, 0, 0, 0]
    assert invoke(guest.domain, call, registers) == 0
    assert guest.entry(0) == entry
    assert invoke(guest.domain, call, [guest.va(0), 0, 0, 0x4100_0001, 0, 0]) == -Errno.EFAULT
    assert guest.call(Hypercall.update_va_mapping_otherdomain, guest.va(1), 0, 0, DomId.SELF) == 0
    assert guest.entry(1) == 0


# -- multicall and sharing -------------------------------------------------------------------


def test_multicall(guest: Guest32) -> None:
    entry = guest.mfn(1) << PAGE_SHIFT | RO
    calls = (
        (Hypercall.update_va_mapping, 99, guest.va(1), entry & 0xFFFF_FFFF, entry >> 32, 2, 0, 0),
        (Hypercall.make_ro_and_share, 99, guest.va(2), 0x200, 0, 0, 0, 0),
        (Hypercall.make_ro_and_share, 99, guest.va(3), 0x200, 0, 0, 0, 0),
        (Hypercall.set_segment_base, 99, 0, 0, 0, 0, 0, 0),
    )
    guest.write(guest.scratch, b"".join(struct.pack("<8I", *call) for call in calls))
    assert guest.call(Hypercall.multicall, guest.scratch, len(calls)) == 0
    results = [guest.numbers(2, 32 * i)[1] for i in range(4)]
    assert results == [0, 0, 1, -Errno.ENOSYS & 0xFFFF_FFFF]
    assert guest.entry(1) & RW == RO
    assert guest.mfn(2) == guest.mfn(3)
    assert audit(guest.hv) == []


def test_share_batch_has_the_same_requests(guest: Guest32) -> None:
    l1 = guest.space.l1 << PAGE_SHIFT
    requests = [l1, l1 | 8, l1 | 4, guest.space.l2 << PAGE_SHIFT, l1 | 100 << 3, 1 << 63, l1]
    raw = b"".join(struct.pack("<QiI", pointer, 77, i) for i, pointer in enumerate(requests))
    guest.write(guest.scratch, raw)
    done = guest.scratch + 1024
    batch = Hypercall.make_ro_and_share_batch
    assert guest.call(batch, guest.scratch, len(requests), done, 0x400) == 4
    statuses = [
        struct.unpack("<QiI", guest.read(guest.scratch + 16 * i, 16))[1]
        for i in range(len(requests))
    ]
    assert statuses == [0, 1, *[-Errno.EINVAL] * 4, 1]
    assert struct.unpack("<I", guest.read(done, 4)) == (len(requests),)
    assert guest.call(batch, M2P, 1, done, 0) == -Errno.EFAULT
    assert guest.call(batch, guest.scratch, 1 << 17, done, 0) == -Errno.E2BIG
    assert audit(guest.hv) == []


@pytest.mark.parametrize(
    ("va", "avl", "answer"),
    [
        (0x4000_0001, 0, -Errno.EINVAL),
        (0x4000_0000, 0x1000, -Errno.EINVAL),
        (0x4010_0000, 0, -Errno.EINVAL),
        (0x8000_0000, 0, -Errno.EINVAL),
        (M2P, 0, -Errno.EINVAL),
        (0xFFFF_F000, 0, -Errno.EINVAL),
        (0x4000_0000, 0xE00, 0),
    ],
)
def test_share_answers(guest: Guest32, va: int, avl: int, answer: int) -> None:
    assert guest.call(Hypercall.make_ro_and_share, va, avl, 0) == answer
    assert audit(guest.hv) == []


def test_share_refuses_tables_and_second_mappings(guest: Guest32) -> None:
    assert guest.update(5, guest.space.l1 << PAGE_SHIFT | RO) == 0
    assert guest.share(5) == -Errno.EBUSY
    assert guest.update(6, guest.mfn(0) << PAGE_SHIFT | RO) == 0
    assert guest.share(6) == guest.share(0) == -Errno.EBUSY
    assert guest.update(7, guest.domain.shared_info << PAGE_SHIFT | RW) == 0
    assert guest.share(7) == -Errno.EPERM


# -- events and time -------------------------------------------------------------------------


def shared(guest: Guest32, offset: int, size: int = 4) -> int:
    at = (guest.domain.shared_info << PAGE_SHIFT) + offset
    return int.from_bytes(guest.hv.machine.memory.bytes[at : at + size], "little")


PENDING = 2048
MASK = PENDING + 128


def test_ports_are_32_by_32_bits(guest: Guest32) -> None:
    event = Hypercall.event_channel_op
    ports = []
    for _ in range(40):
        record = layout(EvtchnBindIpi, 32)(vcpu=0)
        assert guest.op(event, 7, record) == 0
        ports.append(record.port)
    assert ports == list(range(ports[0], ports[0] + 40))
    send = layout(EvtchnSend, 32)(port=37)
    assert guest.op(event, 4, send) == 0
    assert shared(guest, PENDING + 4) == 1 << 5
    assert shared(guest, 4) == 2  # evtchn_pending_sel
    assert shared(guest, 0, 1) == 1
    assert guest.hv.events.pending(guest.domain, 37)
    status = layout(EvtchnStatus, 32)(dom=DomId.SELF, port=37)
    assert guest.op(event, 5, status) == 0
    assert status.status == 5
    unbound = layout(EvtchnAllocUnbound, 32)(dom=DomId.SELF, remote_dom=0)
    assert guest.op(event, 6, unbound) == 0
    assert unbound.port == ports[-1] + 1


def test_a_masked_port_waits_for_unmask(guest: Guest32) -> None:
    event = Hypercall.event_channel_op
    record = layout(EvtchnBindIpi, 32)(vcpu=0)
    assert guest.op(event, 7, record) == 0
    port = record.port
    at = (guest.domain.shared_info << PAGE_SHIFT) + MASK
    guest.hv.machine.memory.bytes[at] = 1 << port
    assert guest.op(event, 4, layout(EvtchnSend, 32)(port=port)) == 0
    assert shared(guest, PENDING) == 1 << port
    assert shared(guest, 4) == shared(guest, 0, 1) == 0
    assert guest.op(event, 9, layout(EvtchnSend, 32)(port=port)) == 0
    assert shared(guest, MASK) == 0
    assert shared(guest, 4) == shared(guest, 0, 1) == 1
    assert guest.op(event, 9, layout(EvtchnSend, 32)(port=1024)) == -Errno.EINVAL


def test_there_are_1023_ports(guest: Guest32) -> None:
    event, record = Hypercall.event_channel_op, layout(EvtchnBindIpi, 32)(vcpu=0)
    count = 0
    while guest.op(event, 7, record) == 0:
        count += 1
    assert count + 1 == 1024
    assert record.port == 1023


def test_time_and_wall_clock(guest: Guest32) -> None:
    guest.hv.scheduler.pass_time(5_000_000)
    guest.hv.scheduler._write_time(guest.domain)
    version, _, tsc, now = struct.unpack(
        "<IIQQ",
        guest.hv.machine.memory.bytes[
            (guest.domain.shared_info << PAGE_SHIFT) + 32 : (guest.domain.shared_info << PAGE_SHIFT)
            + 56
        ],
    )
    assert version % 2 == 0
    assert tsc == now == guest.hv.scheduler.now()
    assert shared(guest, MASK + 128 + 4) == 1_104_537_600


def test_the_timer_is_in_two_registers(guest: Guest32) -> None:
    assert guest.call(Hypercall.set_timer_op, 5 << 32 | 7) == 0
    assert guest.domain.timer_deadline == 5 << 32 | 7
    assert guest.call(Hypercall.set_timer_op, 0) == 0
    assert guest.domain.timer_deadline is None


def test_poll(guest: Guest32) -> None:
    bound = layout(EvtchnBindIpi, 32)(vcpu=0)
    assert guest.op(Hypercall.event_channel_op, 7, bound) == 0
    guest.write(guest.scratch + 256, struct.pack("<I", bound.port))
    record = layout(SchedPoll, 32)(ports=guest.scratch + 256, nr_ports=1, timeout=1 << 33)
    assert size_of(type(record)) == 16
    assert guest.op(Hypercall.sched_op, 3, record) == 0
    assert guest.domain.state is State.BLOCKED
    assert guest.domain.polling == (bound.port,)
    guest.hv.scheduler.wake(guest.domain)
    record.nr_ports, record.ports = 1, M2P
    assert guest.op(Hypercall.sched_op, 3, record) == -Errno.EFAULT


def test_runstate_is_44_bytes(guest: Guest32) -> None:
    area = guest.scratch + 256
    guest.write(area, b"\xee" * 64)
    record = layout(VcpuRegisterRunstateMemoryArea, 32)(addr=area)
    assert guest.op(Hypercall.vcpu_op, 5, record, 0) == 0
    raw = guest.read(area, 64)
    assert raw[44:] == b"\xee" * 20
    assert struct.unpack_from("<i", raw)[0] in (0, 1)


# -- the rest --------------------------------------------------------------------------------


def test_version_says_what_it_is_for_32_bits(guest: Guest32) -> None:
    version = Hypercall.xen_version
    guest.write(guest.scratch, b"\xee" * 16)
    assert guest.call(version, XenVer.platform_parameters, guest.scratch) == 0
    assert guest.read(guest.scratch, 8) == struct.pack("<I", M2P) + b"\xee" * 4
    assert size_of(layout(PlatformParameters, 32)) == 4
    bit = 1 << XenFeat.pae_pgdir_above_4gb
    for expected in (0, bit):
        guest.write(guest.scratch, bytes(8))
        assert guest.call(version, XenVer.get_features, guest.scratch) == 0
        assert guest.numbers(2, 0)[1] & bit == expected
        assist = VmAssist.pae_extended_cr3
        assert guest.call(Hypercall.vm_assist, VmAssistCmd.enable, assist) == 0
    assert guest.call(version, XenVer.capabilities, guest.scratch) == 0
    assert b"xen-3.0-x86_32p" in guest.read(guest.scratch, 64)


def test_physdev_in_its_older_form(guest: Guest32) -> None:
    guest.write(guest.scratch, struct.pack("<II", 6, 2))
    assert guest.call(Hypercall.physdev_op_compat, guest.scratch) == 0
    assert guest.domain.iopl == 2


def test_callback_op_takes_a_selector(guest: Guest32) -> None:
    callback = Hypercall.callback_op
    guest.write(guest.scratch, struct.pack("<HHII", 0, 1, 0x8, 0x1234))
    assert guest.call(callback, 0, guest.scratch) == 0
    registered = guest.domain.event_callback
    assert registered is not None
    assert (registered.address, registered.cs) == (0x1234, 0x9)
    guest.write(guest.scratch, struct.pack("<HHII", 2, 0, 0x8, 0x1234))
    assert guest.call(callback, 0, guest.scratch) == -Errno.ENOSYS  # syscall is for 64 bits
    assert guest.call(callback, 9, guest.scratch) == -Errno.EINVAL


def test_set_trap_table(guest: Guest32) -> None:
    raw = struct.pack("<BBHI", 14, 7, 0xE018, 0x1000) + struct.pack("<BBHI", 3, 0, 0xE02B, 0x2000)
    guest.write(guest.scratch, raw + bytes(8))
    assert guest.call(Hypercall.set_trap_table, guest.scratch) == 0
    entry = guest.domain.trap_table[14]
    assert (entry.cs, entry.address, entry.dpl, entry.masks_events) == (0xE019, 0x1000, 3, True)
    assert guest.domain.trap_table[3].cs == 0xE02B
    assert guest.call(Hypercall.set_trap_table, 0) == 0
    assert not guest.domain.trap_table


def test_debug_registers(guest: Guest32) -> None:
    assert guest.call(Hypercall.set_debugreg, 0, 0x4000_0000) == 0
    assert guest.call(Hypercall.get_debugreg, 0) == 0x4000_0000
    assert guest.call(Hypercall.get_debugreg, 6) == 0xFFFF_0FF0


def test_unknown_numbers(guest: Guest32) -> None:
    invoke = guest.hv.dispatch.invoke
    for number in (11, 25, 53, 63, 1000, 0xFFFF_FFFF):
        assert invoke(guest.domain, number, [0] * 6) == -Errno.ENOSYS
