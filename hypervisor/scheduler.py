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
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from emu import Ending
from emu.errors import MachineError
from emu.units import PAGE_SHIFT, mfn_of
from hypervisor.abi import Errno, Pvclock, RunState, Shutdown, Virq
from hypervisor.domain import Domain, Exit, State
from hypervisor.errors import HypervisorError
from hypervisor.runstate import RunStates
from hypervisor.sharedinfo import SHARED, TIME

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

NANOSECONDS: Final = 1_000_000_000
WALL_CLOCK: Final = 1_104_537_600
"""Seconds since 1970 at which every machine is switched on: 2005-01-01. Never the host's clock."""
DEFAULT_PERIOD: Final = 10_000_000
"""Nanoseconds between the ticks of a domain that asked for nothing else (Xen's 100 Hz)."""
WATCHDOGS: Final = 2
"""Watchdogs of one domain."""
_TIME_INFO: Final = struct.Struct("<IIQQIbB2x")
_WALL_INFO: Final = struct.Struct("<III")
"""Version, seconds, nanoseconds; the upper half of the seconds stays 0."""
_MULTIPLIER: Final = 1 << 31
_SHIFT: Final = 1
"""ns = ticks << 1, times 2**31, >> 32: one tick is one nanosecond."""
_REFRESH: Final = 1_000_000
"""Nanoseconds after which the time in shared_info is written anew. The relation of TSC and time
never changes, so older values are as right; writing at every switch would make a guest that reads
between two short slices retry for ever."""
_UNLIMITED: Final = 1 << 62
_END_OF_TIME: Final = (1 << 63) - 1
"""Xen's system time is signed, and so no deadline lies behind this; the clock jumps no further."""


def deadline_of(timeout: int) -> int:
    """The moment that a guest's unsigned ``timeout`` (ns of system time) names.

    Beyond ``_END_OF_TIME`` it is negative to Xen, and so long past.
    """
    return timeout if timeout <= _END_OF_TIME else 0


class Scheduler:
    """The run queue, the clock and the timers."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._machine = hv.machine
        self._skipped = 0
        self._last = 0
        self._slice_end = 0
        """System time at which the open slice ends; 0 if none is open."""
        self._running: Domain | None = None
        """Whose slice is open: it runs, or was cut by the limit of a run and goes on."""
        self._preempted = False
        """The open slice is over before its end."""
        self._held = False
        self.on_slice: Callable[[Domain], None] | None = None
        """Told of every slice that is opened, when the domain is in the CPU; for a debugger."""
        self._only: frozenset[int] | None = None
        self._timers: list[tuple[int, int]] = []
        """Heap of (deadline, domain id), stale entries among them (``_is_due``)."""
        self._polling: set[int] = set()
        self._poll_deadlines: dict[int, int] = {}
        self._periods: dict[int, int] = {}
        self._last_tick: dict[int, int] = {}
        self._asleep: set[int] = set()
        """Domains that were blocked when they were paused."""
        self._watchdogs: dict[int, list[int | None]] = {}
        """A domain's watchdogs: deadlines in ns, None for one that is not in use."""
        self._latched: dict[int, int] = {}
        self._time_areas: dict[int, int] = {}
        self.runstates = RunStates(hv.guest)
        self._refreshed: dict[int, int] = {}
        """When a domain's time in shared_info was last written."""

    # -- time ------------------------------------------------------------------------------

    def now(self) -> int:
        """System time in ns since the machine was made."""
        return self._machine.position + self._skipped

    def tsc(self) -> int:
        """What RDTSC reads: ticks of 1 ns."""
        self._hv.current.clock_reads += 1
        return self._machine.position + self._skipped

    @property
    def skipped(self) -> int:
        """Nanoseconds that went by while nobody could run."""
        return self._skipped

    def pass_time(self, nanoseconds: int) -> None:
        """Let time go by while nobody runs; timers that are due fire when ``run`` goes on."""
        self._skipped += nanoseconds

    def _write_time(self, domain: Domain) -> None:
        """Bring the time in the domain's shared_info up to date, as a seqlock."""
        now = self.now()
        last = self._refreshed.get(domain.id)
        if last is not None and now - last < _REFRESH:
            return
        self._refreshed[domain.id] = now
        data = self._machine.memory.bytes
        at = domain.vcpu_info + TIME
        version = int.from_bytes(data[at : at + 4], "little")
        version = (version + 2) & 0xFFFF_FFFE
        info = _TIME_INFO.pack(version, 0, now, now, _MULTIPLIER, _SHIFT, Pvclock.TSC_STABLE_BIT)
        data[at : at + _TIME_INFO.size] = info
        area = self._time_areas.get(domain.id)
        if area is not None:
            self._hv.guest.write_kernel(domain, area, info)  # unmapped by the guest: its loss
        if last is None:
            at = (domain.shared_info << PAGE_SHIFT) + SHARED[domain.width].wall
            data[at : at + _WALL_INFO.size] = _WALL_INFO.pack(2, WALL_CLOCK, 0)
            self._machine.coherence.wrote(domain.shared_info)
        self._machine.coherence.wrote(mfn_of(domain.vcpu_info))

    def refresh_time(self, domain: Domain) -> None:
        """Write the time anew, into a ``vcpu_info`` that just moved."""
        self._refreshed.pop(domain.id, None)
        self._write_time(domain)

    def register_time_area(self, domain: Domain, area: int) -> None:
        """Keep a second copy of the time at the domain's linear address ``area``."""
        self._time_areas[domain.id] = area
        self._refreshed.pop(domain.id, None)
        self._write_time(domain)

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
                self._preempt()

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
            self._preempt()

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
                *self._watchdogs.get(number, ()),
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
            if deadline in self._watchdogs.get(number, ()):
                self.shutdown(domain, Shutdown.watchdog)

    def watchdog(self, domain: Domain, number: int, timeout: int) -> int:
        """SCHEDOP_watchdog: end the domain unless it calls again within ``timeout`` seconds.

        ``number`` 0 asks for a watchdog: its number is the answer, or -ENOSPC; a ``timeout`` of
        0 then ends the domain at once, as in Xen. Otherwise the
        watchdog is set anew, or given up if ``timeout`` is 0: 0, or -EINVAL if there is none.
        """
        dogs = self._watchdogs.setdefault(domain.id, [None] * WATCHDOGS)
        if number > WATCHDOGS:
            return -int(Errno.EINVAL)
        if number == 0:
            if None not in dogs:
                return -int(Errno.ENOSPC)
            number = answer = dogs.index(None) + 1
            wanted = True
        elif dogs[number - 1] is None:
            return -int(Errno.EINVAL)
        else:
            answer = 0
            wanted = timeout != 0
        deadline = min(self.now() + timeout * NANOSECONDS, _END_OF_TIME) if wanted else None
        dogs[number - 1] = deadline
        if deadline is not None:
            self._arm(domain, deadline)
        return answer

    # -- endings ---------------------------------------------------------------------------

    def latch_reason(self, domain: Domain, reason: int) -> None:
        """SCHEDOP_shutdown_code: the reason that the next shutdown has; the first one counts."""
        self._latched.setdefault(domain.id, reason)

    def shutdown(self, domain: Domain, reason: int) -> None:
        """A domain ends for one of SHUTDOWN_*; an unknown number ends it as a crash."""
        reason = self._latched.get(domain.id, reason)
        if reason == Shutdown.crash or reason not in Shutdown._value2member_map_:
            known = reason == Shutdown.crash
            why = "the guest says that it crashed" if known else f"shutdown for reason {reason}"
            self._hv.crash(domain, f"{why} (SCHEDOP_shutdown)")
            return
        name = Shutdown(reason).name
        self._hv.end(domain, Exit(name, 1 if reason == Shutdown.watchdog else 0))

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
            self.runstates.change(domain, RunState.runnable, self.now())
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
        for more in (self._latched, self._time_areas):
            more.pop(domain.id, None)
        self._watchdogs.pop(domain.id, None)
        self.runstates.forget(domain)

    # -- running ---------------------------------------------------------------------------

    def _pick(self) -> Domain | None:
        """The runnable domain whose turn it is."""
        domains = self._hv.domains
        ids = list(domains) if self._only is None else [n for n in domains if n in self._only]
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

        A slice that the limit cuts goes on in the next run: a run does not depend on how it is
        cut. When this comes back, a slice is open whose next instruction is the machine's next,
        unless no domain can run, or the last instruction ended the domain that ran.

        Raises:
            HypervisorError: guest code reached outside machine memory.
        """
        machine = self._machine
        end = _UNLIMITED if limit is None else machine.position + limit
        self._held = False
        while True:
            if not self._settle():
                return True
            budget = min(self._slice_end - self.now(), end - machine.position)
            if budget <= 0 or self._held:
                return False
            domain = self._go(budget)
            if domain.exit is not None and (self._held or machine.position >= end):
                return False  # its state is still there to be looked at

    def hold(self) -> None:
        """``run`` comes back as soon as it can: for a debugger, from whatever it is told of.

        What is under way is finished first, and a slice is opened if need be.
        """
        self._held = True
        self._machine.cut()

    @property
    def running(self) -> Domain | None:
        """The domain whose slice is open, None if no domain can run or none has been asked to."""
        return self._running

    @property
    def slice_left(self) -> int:
        """Instructions until the open slice ends by itself; 0 if none is open."""
        return max(0, self._slice_end - self.now()) if self._running is not None else 0

    @property
    def only(self) -> frozenset[int] | None:
        """The domains that may run, None for all."""
        return self._only

    @only.setter
    def only(self, ids: frozenset[int] | None) -> None:
        self._only = ids
        if ids is not None and self._running is not None and self._running.id not in ids:
            self._preempt()

    def _preempt(self) -> None:
        """The open slice is over, at the end of the trap in hand if there is one."""
        self._preempted = True
        self._machine.stop()

    def settle(self) -> bool:
        """Open the next slice unless one is open; False if no domain can run again."""
        self._held = False
        return self._settle()

    def _ended_before_us(self) -> bool:
        """The domain in the CPU has ended, and somebody wants to look at it before it goes."""
        return self._held and self._hv.current.exit is not None

    def _settle(self) -> bool:
        hv = self._hv
        while True:
            if self._ended_before_us():
                return True
            domain = self._running
            if domain is not None:
                if (
                    domain.state is State.RUNNABLE
                    and domain.exit is None
                    and not self._preempted
                    and self.now() < self._slice_end
                ):
                    hv.switch_to(domain)  # whoever called us may have had another one in the CPU
                    return True
                self._close(domain)
            self._expire()
            if self._ended_before_us():
                return True
            hv.reap()  # a watchdog, or whoever called us, may have ended the current domain
            domain = self._pick()
            deadline = self._next_deadline()
            if domain is None:
                if deadline is None:
                    return False
                self._skipped += max(0, deadline - self.now())
                continue
            budget = hv.settings.slice
            if deadline is not None:
                budget = min(budget, deadline - self.now())
            self._open(domain, budget)

    def _open(self, domain: Domain, budget: int) -> None:
        """Begin a slice of at most ``budget`` instructions."""
        hv = self._hv
        self._last = domain.id
        hv.switch_to(domain)
        self._write_time(domain)
        budget = min(budget, self._tick(domain))
        if hv.events.deliverable(domain):
            hv.traps.deliver_upcall(domain)
            if domain.state is not State.RUNNABLE:
                return
        now = self.now()
        self.runstates.change(domain, RunState.running, now)
        self.runstates.write(domain, now)
        self._slice_end = now + budget
        hv.work = 0
        self._preempted = False
        self._running = domain
        if self.on_slice is not None:
            self.on_slice(domain)

    def _go(self, budget: int) -> Domain:
        """Run the domain of the open slice, ``current``, for at most ``budget`` instructions."""
        domain = self._hv.current
        before = self._machine.position
        self._hv.breakpoints.begin(domain)
        try:
            ending = self._machine.run(budget)
        except MachineError as error:
            raise HypervisorError(f"{domain.label}: {error}") from error
        finally:
            domain.instructions += self._machine.position - before
            if domain.width == 32:
                self._hv.traps.entry32.note_mode(domain)
        if ending is Ending.HALTED and domain.exit is None:
            self._hv.crash(domain, "the CPU halted: a triple fault, or HLT at privilege 0")
        if ending is Ending.BREAK:
            self._held = True
        elif ending is not Ending.BUDGET:
            self._preempted = True
        return domain

    def _close(self, domain: Domain) -> None:
        """The open slice is over."""
        self._running = None
        self._slice_end = 0
        if domain.exit is None:
            blocked = domain.state is State.BLOCKED
            state = RunState.blocked if blocked else RunState.runnable
            self.runstates.change(domain, state, self.now())
        self._hv.reap()
