"""Turns, slices, time, waiting and ending, with kernels that really run."""

import struct

import pytest

from hypervisor.abi import (
    Errno,
    Hypercall,
    RunState,
    SchedOp,
    SchedPoll,
    SchedRemoteShutdown,
    SchedShutdown,
    SchedWatchdog,
    SharedInfo,
    Shutdown,
    VcpuOp,
    VcpuRegisterRunstateMemoryArea,
    VcpuRegisterTimeMemoryArea,
    VcpuSetPeriodicTimer,
    VcpuSetSingleshotTimer,
    VcpuTimeInfo,
    Virq,
    read,
)
from hypervisor.domain import Domain, State
from hypervisor.scheduler import DEFAULT_PERIOD, WALL_CLOCK
from tests.hypervisor.kernels import SPIN, Caller, Lab

SCHED = Hypercall.sched_op
COUNT = "1: inc rbx\njmp 1b\n"

# Binds VIRQ_TIMER, then sets the timer to r15 ns from now and blocks; counts in r14 and repeats.
TIMER_LOOP = """
    lea rsi, [rip + scratch + 64]
    mov dword ptr [rsi], 0
    mov dword ptr [rsi + 4], 0
    call 32, 1                              # bind_virq(TIMER)
    test rax, rax
    jnz bad
    mov r15, {period}
again:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    lea rdi, [rax + r15]
    call 15                                 # set_timer_op
    lea rsi, [rip + scratch + 64]
    mov eax, [rsi + 8]                      # the port: poll for it
    mov [rip + scratch + 128], eax
    lea rax, [rip + scratch + 128]
    mov [rip + scratch + 160], rax
    mov dword ptr [rip + scratch + 168], 1
    mov qword ptr [rip + scratch + 176], 0
    lea rsi, [rip + scratch + 160]
    call 29, 3                              # poll
    test rax, rax
    jnz bad
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r12
    mov r13, rax                            # how long it took
    jmp poweroff
bad: ud2
"""


def test_round_robin_and_limit() -> None:
    lab = Lab(slice_=1000)
    domains = [lab.boot(COUNT) for _ in range(3)]
    order: list[int] = []
    switch = lab.hv.switch_to

    def note(domain: Domain) -> None:
        if domain is not lab.hv.current:
            order.append(domain.id)
        switch(domain)

    lab.hv.switch_to = note  # type: ignore[method-assign]
    assert not lab.hv.run(7500)
    assert order == [1, 2, 3, 1, 2, 3, 1, 2]
    assert [d.instructions for d in domains] == [3000, 2500, 2000]
    assert lab.hv.machine.position == 7500
    assert not lab.hv.run(1)
    assert sum(d.instructions for d in domains) == 7501


def test_a_spinning_domain_does_not_stop_others() -> None:
    lab = Lab()
    lab.boot(COUNT)
    quick = lab.boot("")
    assert not lab.hv.run(200_000)
    assert lab.exits[quick.id].reason == "poweroff"
    assert len(lab.hv.domains) == 1


@pytest.mark.parametrize(
    ("reason", "name", "code"),
    [(0, "poweroff", 0), (1, "reboot", 0), (2, "suspend", 0), (3, "crash", 1), (4, "watchdog", 1),
     (5, "soft_reset", 0), (77, "crash", 1)],
)  # fmt: skip
def test_shutdown_reasons(reason: int, name: str, code: int) -> None:
    lab = Lab()
    domain = lab.boot(
        f"mov dword ptr [rip + scratch], {reason}\nlea rsi, [rip + scratch]\ncall 29, 2\nud2\n"
    )
    assert lab.hv.run(1000)
    exit_ = lab.exits[domain.id]
    assert (exit_.reason, exit_.code, bool(exit_.report)) == (name, code, name == "crash")
    lab.check_empty()


def test_compat_shutdown_and_vcpu_down() -> None:
    lab = Lab()
    one = lab.boot("call 6, 2, 1\nud2\n")
    two = lab.boot("call 24, 2, 0\nud2\n")
    assert lab.hv.run(1000)
    assert lab.exits[one.id].reason == "reboot"
    assert lab.exits[two.id].reason == "poweroff"
    lab.check_empty()


def test_the_first_shutdown_code_counts() -> None:
    lab = Lab()
    caller = Caller(lab)
    for reason in (1, 3):
        assert caller.op(SCHED, SchedOp.shutdown_code, SchedShutdown(reason=reason)) == 0
    assert caller.op(SCHED, SchedOp.shutdown, SchedShutdown(reason=0)) == 0
    lab.hv.reap()
    assert lab.exits[caller.domain.id].reason == "reboot"


def test_blocked_for_ever_ends_the_run() -> None:
    lab = Lab()
    domain = lab.boot("call 29, 1\nud2\n")
    assert lab.hv.run()
    assert domain.state is State.BLOCKED
    assert lab.hv.machine.position < 100
    lab.check()


def test_yield_gives_the_turn_away() -> None:
    lab = Lab()
    one = lab.boot("1: call 29, 0\ninc rbx\njmp 1b\n")
    lab.boot(COUNT)
    assert not lab.hv.run(500_000)
    assert one.instructions < 100


def test_timer_ends_waiting_exactly_and_idling_costs_nothing() -> None:
    lab = Lab()
    hv = lab.hv
    domain = lab.boot(TIMER_LOOP.format(period=5_000_000_000))
    left: list[int] = []
    hv.listen(lambda kind, *_: left.append(hv.machine.cpu.words[13]) if kind == "exit" else None)
    assert hv.run()
    assert lab.exits[domain.id].reason == "poweroff"
    # From one RDTSC to the next: the wait and the few instructions behind it.
    assert 5_000_000_000 <= left[0] < 5_000_000_020
    assert hv.machine.position < 200
    assert 5_000_000_000 < hv.scheduler.now() < 5_000_000_200


def test_a_deadline_ends_another_domains_slice_exactly() -> None:
    lab = Lab(slice_=1_000_000)
    hv = lab.hv
    waiting = lab.boot(TIMER_LOOP.format(period=12_345))
    spinning = lab.boot(COUNT)
    assert not hv.run(20_000)
    assert lab.exits[waiting.id].reason == "poweroff"
    # The spinner got the whole time until the deadline, and the rest of the limit.
    assert spinning.instructions == 20_000 - waiting.instructions


def test_own_timer_ends_own_slice() -> None:
    """A timer armed in the middle of a slice is not late because the slice was long."""
    lab = Lab(slice_=1_000_000)
    caller = Caller(lab)
    hv = lab.hv
    port = hv.events.bind_virq(caller.domain, Virq.TIMER, 0)
    assert caller.call(Hypercall.set_timer_op, hv.scheduler.now() + 777) == 0
    assert not hv.run(776)
    assert not hv.events.pending(caller.domain, port)
    assert not hv.run(1)
    assert hv.events.pending(caller.domain, port)


def test_timer_oddities() -> None:
    lab = Lab()
    caller = Caller(lab)
    now = lab.hv.scheduler.now()
    for odd in (1 << 63, (1 << 64) - 1, now + (1 << 50)):
        assert caller.call(Hypercall.set_timer_op, odd) == 0
        assert caller.domain.timer_deadline == now + 100_000_000
    assert caller.call(Hypercall.set_timer_op, 0) == 0
    assert caller.domain.timer_deadline is None
    # Set again and again: what is kept stays bounded.
    for i in range(10_000):
        caller.call(Hypercall.set_timer_op, 1 << 40 | i)
    assert len(lab.hv.scheduler._timers) < 1000


def test_singleshot_and_periodic_timers() -> None:
    lab = Lab()
    caller = Caller(lab)
    hv = lab.hv
    vcpu = Hypercall.vcpu_op

    def op(command: int, record) -> int | None:
        return caller.call(vcpu, command, 0, caller.put(bytes(record)))

    assert not hv.run(1000)
    past = VcpuSetSingleshotTimer(timeout_abs_ns=5, flags=1)  # a flag that Xen ignores
    assert op(VcpuOp.set_singleshot_timer, past) == 0
    assert op(VcpuOp.set_singleshot_timer, VcpuSetSingleshotTimer(timeout_abs_ns=5)) == 0
    assert caller.domain.timer_deadline == 5
    assert caller.call(vcpu, VcpuOp.stop_singleshot_timer, 0) == 0
    assert caller.domain.timer_deadline is None
    assert op(VcpuOp.set_periodic_timer, VcpuSetPeriodicTimer(period_ns=999_999)) == -Errno.EINVAL
    assert op(VcpuOp.set_periodic_timer, VcpuSetPeriodicTimer(period_ns=1 << 62)) == -Errno.EINVAL
    port = hv.events.bind_virq(caller.domain, Virq.TIMER, 0)
    assert op(VcpuOp.set_periodic_timer, VcpuSetPeriodicTimer(period_ns=1_000_000)) == 0
    ticks = 0
    for _ in range(50):
        assert not hv.run(100_000)
        ticks += hv.events.pending(caller.domain, port)
        caller.take_events()
    assert ticks == 5
    assert caller.call(vcpu, VcpuOp.stop_periodic_timer, 0) == 0
    assert not hv.run(3_000_000)
    assert hv.scheduler._tick(caller.domain) > 1 << 60


def test_default_tick_is_100_hz_and_only_while_it_runs() -> None:
    lab = Lab()
    caller = Caller(lab)
    port = lab.hv.events.bind_virq(caller.domain, Virq.TIMER, 0)
    assert not lab.hv.run(DEFAULT_PERIOD - 1)
    assert not lab.hv.events.pending(caller.domain, port)
    assert not lab.hv.run(1)
    assert lab.hv.events.pending(caller.domain, port)
    caller.take_events()
    caller.call(SCHED, SchedOp.block)
    assert lab.hv.run()  # no tick wakes it


def test_time_in_shared_info() -> None:
    lab = Lab()
    domain = lab.boot(SPIN)
    assert not lab.hv.run(2_500_000)
    shared = read(SharedInfo, lab.hv.machine.memory.frame_bytes(domain.shared_info))
    time = shared.vcpu_info[0].time
    assert time.version % 2 == 0
    assert time.version > 0
    assert 2_000_000 <= time.system_time == time.tsc_timestamp <= 2_500_000
    assert (12_345 << time.tsc_shift) * time.tsc_to_system_mul >> 32 == 12_345
    assert (shared.wc_sec, shared.wc_nsec, shared.wc_version % 2) == (WALL_CLOCK, 0, 0)


def test_time_and_runstate_areas() -> None:
    lab = Lab()
    caller = Caller(lab)
    hv = lab.hv
    vcpu = Hypercall.vcpu_op
    area = caller.put(bytes(48), 1024)
    at = caller.put(bytes(VcpuRegisterTimeMemoryArea(addr=area)))
    assert not hv.run(100)
    assert caller.call(vcpu, VcpuOp.register_vcpu_time_memory_area, 0, at) == 0
    assert read(VcpuTimeInfo, caller.get(32, 1024)).system_time == 100
    area = caller.put(bytes(48), 2048)
    at = caller.put(bytes(VcpuRegisterRunstateMemoryArea(addr=area)))
    assert caller.call(vcpu, VcpuOp.register_runstate_memory_area, 0, at) == 0
    assert caller.call(vcpu, VcpuOp.get_runstate_info, 0, area) == 0
    at = caller.put(bytes(VcpuRegisterRunstateMemoryArea(addr=0xFFFF_8000_0000_0000)))
    for command in (5, 13):
        assert caller.call(vcpu, command, 0, at) == -Errno.EFAULT
    assert caller.call(vcpu, VcpuOp.get_runstate_info, 0, 1 << 46) == -Errno.EFAULT
    other = lab.boot(COUNT)
    assert not hv.run(200_000)
    state, _, running, runnable, blocked, offline = struct.unpack("<i4x5Q", caller.get(48, 2048))
    assert state == RunState.running
    assert running == 100_000  # as of its third turn
    assert runnable == 100_000
    assert (blocked, offline) == (0, 0)
    assert other.instructions == 100_000


def test_areas_that_are_not_mapped_are_nobodys_loss_but_the_guests() -> None:
    lab = Lab()
    caller = Caller(lab)
    at = caller.put(bytes(VcpuRegisterRunstateMemoryArea(addr=1 << 46)))
    for command in (VcpuOp.register_runstate_memory_area, VcpuOp.register_vcpu_time_memory_area):
        assert caller.call(Hypercall.vcpu_op, command, 0, at) == 0
    lab.boot(COUNT)
    assert not lab.hv.run(200_000)
    lab.check()


def test_vcpu_op_answers() -> None:
    caller = Caller(Lab())
    vcpu = Hypercall.vcpu_op
    assert caller.call(vcpu, VcpuOp.is_up, 0) == 1
    assert caller.call(vcpu, VcpuOp.up, 0) == 0
    assert caller.call(vcpu, VcpuOp.is_up, 1) == -Errno.ENOENT
    assert caller.call(vcpu, VcpuOp.initialise, 0, caller.scratch) == -Errno.EEXIST
    assert caller.call(vcpu, VcpuOp.initialise, 0, 0x1000) == -Errno.EFAULT
    assert caller.call(vcpu, VcpuOp.get_physid, 0) == -Errno.EINVAL
    assert caller.call(vcpu, 99, 0) == -Errno.ENOSYS


def test_poll() -> None:
    lab = Lab()
    caller = Caller(lab)
    hv, domain = lab.hv, caller.domain
    one = hv.events.bind_ipi(domain, 0)
    two = hv.events.bind_ipi(domain, 0)

    def poll(*ports: int, timeout: int = 0) -> int | None:
        at = caller.put(struct.pack(f"<{len(ports)}I", *ports), 512)
        record = SchedPoll(ports=at, nr_ports=len(ports), timeout=timeout)
        return caller.op(SCHED, SchedOp.poll, record)

    assert poll(4096) == -Errno.EINVAL
    assert domain.state is State.RUNNABLE
    too_many = SchedPoll(ports=caller.scratch, nr_ports=129)
    assert caller.op(SCHED, SchedOp.poll, too_many) == -Errno.EINVAL
    nowhere = SchedPoll(ports=8, nr_ports=1)
    assert caller.op(SCHED, SchedOp.poll, nowhere) == -Errno.EFAULT
    assert poll(one) == 0
    assert domain.state is State.BLOCKED
    mask = hv.machine.memory.words
    mask[domain.shared_info * 512 + 320] = 1 << two | 1 << one
    hv.events.send(domain, two)
    assert domain.state is State.BLOCKED  # another port, and one that is masked
    hv.events.send(domain, one)
    assert domain.state is State.RUNNABLE
    assert poll(one, two) == 0
    assert domain.state is State.RUNNABLE  # pending already
    caller.take_events()
    assert poll(one, two) == 0
    hv.events.send(domain, two)
    assert domain.state is State.RUNNABLE
    caller.take_events()
    now = hv.scheduler.now()
    assert poll(one, timeout=now + 1_000_000) == 0
    assert not hv.run(10)
    assert hv.scheduler.now() == now + 1_000_010
    # An unmasked event ends any polling, whatever the ports.
    mask[domain.shared_info * 512 + 320] = 0
    assert poll(one) == 0
    hv.events.send(domain, two)
    assert domain.state is State.RUNNABLE


def test_remote_shutdown_is_for_the_privileged() -> None:
    lab = Lab()
    caller = Caller(lab)
    other = lab.boot(SPIN)
    order = SchedRemoteShutdown(domain_id=other.id, reason=Shutdown.reboot)
    assert caller.op(SCHED, SchedOp.remote_shutdown, order) == -Errno.EPERM
    caller.domain.privileged = True
    gone = SchedRemoteShutdown(domain_id=99, reason=0)
    assert caller.op(SCHED, SchedOp.remote_shutdown, gone) == -Errno.ESRCH
    assert caller.op(SCHED, SchedOp.remote_shutdown, order) == 0
    assert lab.exits[other.id].reason == "reboot"
    assert caller.call(SCHED, SchedOp.pin_override) == -Errno.EPERM
    assert caller.call(SCHED, 55) == -Errno.ENOSYS
    assert caller.call(Hypercall.sched_op_compat, 3) == -Errno.ENOSYS


def test_watchdog() -> None:
    lab = Lab()
    caller = Caller(lab)

    def dog(number: int, timeout: int) -> int | None:
        return caller.op(SCHED, SchedOp.watchdog, SchedWatchdog(id=number, timeout=timeout))

    assert dog(1, 5) == -Errno.EINVAL
    assert dog(3, 5) == -Errno.EINVAL
    assert dog(0, 5) == 1
    assert dog(0, 9) == 2
    assert dog(0, 9) == -Errno.ENOSPC
    assert dog(1, 0) == 0
    assert dog(2, 7) == 0
    caller.call(SCHED, SchedOp.block)
    assert lab.hv.run()
    assert lab.exits[caller.domain.id].reason == "watchdog"
    assert lab.hv.scheduler.now() == 7_000_000_000
    lab.check_empty()


def test_a_watchdog_of_no_time_bites_at_once() -> None:
    lab = Lab()
    caller = Caller(lab)
    assert caller.op(SCHED, SchedOp.watchdog, SchedWatchdog(id=0, timeout=0)) == 1
    assert lab.hv.run()
    assert lab.exits[caller.domain.id].reason == "watchdog"


def test_pause_and_unpause() -> None:
    lab = Lab()
    hv = lab.hv
    caller = Caller(lab)
    domain = caller.domain
    hv.scheduler.pause(domain)
    assert hv.run()
    assert domain.instructions == 0
    hv.scheduler.unpause(domain)
    assert not hv.run(10)
    port = hv.events.bind_ipi(domain, 0)
    caller.call(SCHED, SchedOp.block)
    hv.scheduler.pause(domain)
    hv.scheduler.unpause(domain)
    assert domain.state is State.BLOCKED
    hv.scheduler.pause(domain)
    hv.events.send(domain, port)
    assert domain.state is State.PAUSED
    hv.scheduler.unpause(domain)
    assert domain.state is State.RUNNABLE


def test_a_domain_that_crashes_harms_nobody() -> None:
    lab = Lab()
    bad = lab.boot("ud2\n")
    good = lab.boot("")
    assert lab.hv.run()
    assert lab.exits[bad.id].reason == "crash"
    assert "rip" in lab.exits[bad.id].report.lower()
    assert lab.exits[good.id].reason == "poweroff"
    lab.check_empty()


@pytest.mark.parametrize("slice_", [1, 7, 50_000])
def test_slices_change_nothing_that_a_domain_can_see(slice_: int) -> None:
    lab = Lab(slice_=slice_)
    lab.boot("mov rcx, 3000\n1: add rbx, rcx\nloop 1b\ncall 29, 0\n")
    other = lab.boot("mov rcx, 1000\n1: add rbx, rcx\nloop 1b\n")
    total: list[tuple[int, int]] = []
    hv = lab.hv
    hv.listen(
        lambda kind, d, _: total.append((d.id, hv.machine.cpu.words[3])) if kind == "exit" else None
    )
    assert hv.run()
    assert sorted(total) == [(1, 3000 * 3001 // 2), (other.id, 1000 * 1001 // 2)]
    lab.check_empty()
