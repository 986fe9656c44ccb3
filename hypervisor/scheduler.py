"""Which domain runs, for how long, and what time it is.

Round robin over the runnable domains in order of their ids, each for a slice of instructions. Time
is virtual: one instruction is one nanosecond (a 1 GHz machine whose TSC is its clock), plus the
time that was skipped because nobody could run. A timer's deadline ends a slice exactly, and when
all domains wait the clock jumps to the next deadline, so idling costs nothing and no run depends
on the host's clock.

``run`` comes back when no domain can ever run again: all are dead or paused, or wait for what can
no longer come (such domains stay BLOCKED), or when the limit of instructions is reached.

How it fails: a guest that leaves machine memory or halts the CPU cannot happen while paging's
invariants hold, so the former is a ``HypervisorError``; the latter ends the domain.

Source: xen.h (vcpu_time_info, shared_info's wall clock), sched.h (poll), vcpu.h (timers).
"""

import struct
from bisect import bisect_right
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from emu import Ending
from emu.errors import MachineError
from emu.units import PAGE_SHIFT
from hypervisor.abi import Pvclock, SharedInfo, VcpuInfo, Virq, offset_of
from hypervisor.domain import Domain, State
from hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

NANOSECONDS: Final = 1_000_000_000
WALL_CLOCK: Final = 1_104_537_600
"""Seconds since 1970 at which every machine is switched on: 2005-01-01. Never the host's clock."""
DEFAULT_PERIOD: Final = 10_000_000
"""Nanoseconds between the ticks of a domain that asked for nothing else (Xen's 100 Hz)."""
_TIME: Final = offset_of(VcpuInfo, "time")
_WALL: Final = offset_of(SharedInfo, "wc_version")
_TIME_INFO: Final = struct.Struct("<IIQQIbB2x")
_WALL_INFO: Final = struct.Struct("<IIII")
_MULTIPLIER: Final = 1 << 31
_SHIFT: Final = 1
"""ns = ticks << 1, times 2**31, >> 32: one tick is one nanosecond."""
_REFRESH: Final = 1_000_000
"""Nanoseconds after which the time in shared_info is written anew. The relation of TSC and time
never changes, so older values are as right; writing at every switch would make a guest that reads
between two short slices retry for ever."""
_UNLIMITED: Final = 1 << 62


class Scheduler:
    """The run queue, the clock and the timers."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._machine = hv.machine
        self._skipped = 0
        self._last = 0
        self._slice_end = 0
        """System time at which the running slice ends; 0 outside of guest code."""
        self._timers: list[tuple[int, int]] = []
        """Heap of (deadline, domain id), stale entries among them (``_is_due``)."""
        self._polling: set[int] = set()
        self._poll_deadlines: dict[int, int] = {}
        self._periods: dict[int, int] = {}
        self._last_tick: dict[int, int] = {}
        self._asleep: set[int] = set()
        """Domains that were blocked when they were paused."""
        self._refreshed: dict[int, int] = {}
        """When a domain's time in shared_info was last written."""

    # -- time ------------------------------------------------------------------------------

    def now(self) -> int:
        """System time in ns since the machine was made."""
        return self._machine.position + self._skipped

    def tsc(self) -> int:
        """What RDTSC reads: ticks of 1 ns."""
        return self._machine.position + self._skipped

    def _write_time(self, domain: Domain) -> None:
        """Bring the time in the domain's shared_info up to date, as a seqlock."""
        now = self.now()
        last = self._refreshed.get(domain.id)
        if last is not None and now - last < _REFRESH:
            return
        self._refreshed[domain.id] = now
        data = self._machine.memory.bytes
        base = domain.shared_info << PAGE_SHIFT
        at = base + _TIME
        version = int.from_bytes(data[at : at + 4], "little")
        version = (version + 2) & 0xFFFF_FFFE
        data[at : at + _TIME_INFO.size] = _TIME_INFO.pack(
            version, 0, now, now, _MULTIPLIER, _SHIFT, Pvclock.TSC_STABLE_BIT
        )
        if last is None:
            wall = _WALL_INFO.pack(2, WALL_CLOCK, 0, 0)
            data[base + _WALL : base + _WALL + _WALL_INFO.size] = wall
        self._machine.coherence.wrote(domain.shared_info)

    # -- timers ----------------------------------------------------------------------------

    def set_timer(self, domain: Domain, deadline: int | None) -> None:
        """Arm the one-shot timer (VIRQ_TIMER at ``deadline``, ns of system time), or disarm it."""
        domain.timer_deadline = deadline
        if deadline is not None:
            self._arm(domain, deadline)

    def set_period(self, domain: Domain, period: int | None) -> None:
        """VIRQ_TIMER every ``period`` ns while it runs, or not any more."""
        if period is None:
            self._periods[domain.id] = 0
        else:
            self._periods[domain.id] = period
            self._last_tick[domain.id] = self.now()
            if self.now() + period < self._slice_end:
                self._machine.stop()

    def _tick(self, domain: Domain) -> int:
        """Give the running domain the tick that is due. Returns ns until the next.

        Only a domain that runs has ticks: they never wake one that waits, as in Xen.
        """
        period = self._periods.get(domain.id, DEFAULT_PERIOD)
        if not period or not self._hv.events.port_of(domain, Virq.TIMER):
            return _UNLIMITED
        now = self.now()
        if now - self._last_tick.get(domain.id, 0) >= period:
            self._last_tick[domain.id] = now
            self._hv.events.raise_virq(domain, Virq.TIMER)
        return self._last_tick.get(domain.id, 0) + period - now

    def _arm(self, domain: Domain, deadline: int) -> None:
        timers = self._timers
        heappush(timers, (deadline, domain.id))
        if len(timers) > 64 + 8 * len(self._hv.domains):
            # A guest that sets its timer again and again leaves only stale entries behind.
            timers[:] = sorted({entry for entry in timers if self._is_due(*entry)})
        if deadline < self._slice_end:
            self._machine.stop()

    def _is_due(self, deadline: int, number: int) -> bool:
        """False for an entry whose domain is gone or no longer waits for that moment."""
        domain = self._hv.domains.get(number)
        return (
            domain is not None
            and domain.exit is None
            and deadline
            in (
                domain.timer_deadline,
                self._poll_deadlines.get(number),
            )
        )

    def _next_deadline(self) -> int | None:
        """The earliest deadline of all domains."""
        timers = self._timers
        while timers:
            if self._is_due(*timers[0]):
                return timers[0][0]
            heappop(timers)
        return None

    def _expire(self) -> None:
        """Let every timer fire whose time has come."""
        now = self.now()
        while True:
            deadline = self._next_deadline()
            if deadline is None or deadline > now:
                return
            _, number = heappop(self._timers)
            domain = self._hv.domains[number]
            if self._poll_deadlines.get(number) == deadline:
                self.wake(domain)
            if domain.timer_deadline == deadline:
                domain.timer_deadline = None
                self._hv.events.raise_virq(domain, Virq.TIMER)

    # -- states ----------------------------------------------------------------------------

    def block(self, domain: Domain) -> None:
        """Wait for an event (SCHEDOP_block); the caller checked that none is there already."""
        domain.state = State.BLOCKED

    def poll(self, domain: Domain, ports: tuple[int, ...], deadline: int | None) -> None:
        """Wait for an event at ``ports``, an upcall, or ``deadline`` (ns)."""
        domain.state = State.BLOCKED
        domain.polling = ports
        self._polling.add(domain.id)
        if deadline is not None:
            self._poll_deadlines[domain.id] = deadline
            self._arm(domain, deadline)

    def polls_for(self, domain: Domain, port: int) -> bool:
        """True if an event at ``port`` ends the domain's polling.

        With several ports any port does, as in Xen: the guest looks again and polls again.
        """
        ports = domain.polling
        return domain.id in self._polling and (len(ports) != 1 or ports[0] == port)

    def wake(self, domain: Domain) -> None:
        """End a domain's waiting, if it waits."""
        if domain.state is State.BLOCKED:
            domain.state = State.RUNNABLE
        self._asleep.discard(domain.id)
        self._polling.discard(domain.id)
        self._poll_deadlines.pop(domain.id, None)
        domain.polling = ()

    def pause(self, domain: Domain) -> None:
        """Keep a domain from running until ``unpause``."""
        if domain.state is State.BLOCKED:
            self._asleep.add(domain.id)
        if domain.state is not State.DEAD:
            domain.state = State.PAUSED

    def unpause(self, domain: Domain) -> None:
        """Let a paused domain go on; it waits on if it waited and nothing woke it meanwhile."""
        if domain.state is State.PAUSED:
            domain.state = State.BLOCKED if domain.id in self._asleep else State.RUNNABLE
        self._asleep.discard(domain.id)

    def forget(self, domain: Domain) -> None:
        """A domain is gone."""
        self._asleep.discard(domain.id)
        self._polling.discard(domain.id)
        for kept in (self._poll_deadlines, self._periods, self._last_tick, self._refreshed):
            kept.pop(domain.id, None)

    # -- running ---------------------------------------------------------------------------

    def _pick(self) -> Domain | None:
        """The runnable domain whose turn it is."""
        domains = self._hv.domains
        ids = list(domains)
        start = bisect_right(ids, self._last)
        for number in ids[start:]:
            if domains[number].state is State.RUNNABLE:
                return domains[number]
        for number in ids[:start]:
            if domains[number].state is State.RUNNABLE:
                return domains[number]
        return None

    def run(self, limit: int | None = None) -> bool:
        """Run until no domain can run again (True) or ``limit`` instructions were started (False).

        Raises:
            HypervisorError: guest code reached outside machine memory.
        """
        machine = self._machine
        end = _UNLIMITED if limit is None else machine.position + limit
        while True:
            self._expire()
            domain = self._pick()
            deadline = self._next_deadline()
            if domain is None:
                if deadline is None:
                    return True
                self._skipped += deadline - self.now()
                continue
            budget = min(self._hv.settings.slice, end - machine.position)
            if budget <= 0:
                return False
            if deadline is not None:
                budget = min(budget, deadline - self.now())
            self._slice(domain, budget)

    def _slice(self, domain: Domain, budget: int) -> None:
        hv = self._hv
        self._last = domain.id
        hv.switch_to(domain)
        self._write_time(domain)
        budget = min(budget, self._tick(domain))
        if hv.events.deliverable(domain):
            hv.traps.deliver_upcall(domain)
            if domain.state is not State.RUNNABLE:
                hv.reap()
                return
        before = self._machine.position
        self._slice_end = self.now() + budget
        try:
            ending = self._machine.run(budget)
        except MachineError as error:
            raise HypervisorError(f"{domain.label}: {error}") from error
        finally:
            self._slice_end = 0
            domain.instructions += self._machine.position - before
        if ending is Ending.HALTED and domain.exit is None:
            hv.crash(domain, "the CPU halted: a triple fault, or HLT at privilege 0")
        hv.reap()
