"""Breakpoints, watchpoints and catches: what is set, and what was hit.

Sits between the mechanisms of ``emu.stops`` and whoever runs the machine. Nothing of it is in the
guest. In the ordinary mode the first hit is kept in ``pending`` and the scheduler is asked to come
back; while *searching* (for the last hit before a moment, or all) each hit goes to a function and
nothing stops.

What costs something is connected only while it is needed: addresses are looked up only in slices
of domains that have breakpoints, traps are followed only for watchpoints and compared catches,
events only for other catches.

A watchpoint is by linear address: which machine addresses that is, is found out anew at the end of
each trap and when a domain is switched in (only there can a mapping change), so that it follows a
page that is copied or moved. What the hypervisor stores on the guest's behalf is found by comparing
the watched bytes at the same moments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from emu import Trap
from emu.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from hypervisor.debug.catches import COMPARED, Comparisons, check, fault_details, kinds_of, matches
from hypervisor.debug.conditions import Condition
from hypervisor.debug.model import (
    AnyStop,
    Breakpoint,
    Catch,
    DebugError,
    Event,
    Stop,
    StopReason,
    WatchKind,
    Watchpoint,
)
from hypervisor.debug.names import CpuNames
from hypervisor.debug.state import DomainState
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor

MAX_WATCHED: Final = 1 << 20
"""Bytes of one watchpoint."""
_WATCH_REASONS: Final = {
    "write": StopReason.WATCH,
    "read": StopReason.RWATCH,
    "access": StopReason.AWATCH,
}

Piece = tuple[int, int, int]
"""Machine address, length, and offset in the watched bytes."""


@dataclass(slots=True)
class _Armed:
    """Where a watchpoint's bytes are now, and what they were when last looked at."""

    pieces: tuple[Piece, ...] = ()
    value: bytes = b""


class StopSet:
    """All stops of one machine."""

    def __init__(self, hv: Hypervisor, state: DomainState) -> None:
        self._hv = hv
        self._machine = hv.machine
        self._state = state
        self.stops: dict[int, AnyStop] = {}
        self.pending: Stop | None = None
        """The first hit since it was last taken."""
        self.on_hit: Callable[[Stop], None] | None = None
        """While searching: told of every hit, and nothing stops."""
        self.on_instruction: Callable[[Domain, int], bool] | None = None
        """Asked before every instruction (domain, RIP) whether to stop: slow, for tracing."""
        self.passed = -1
        """The position of a stop that is left: breakpoints there are not hit again."""
        self._next = 1
        self._conditions: dict[str, Condition] = {}
        self._by_domain: dict[int, dict[int, list[Breakpoint]]] = {}
        self._watches: list[Watchpoint] = []
        self._armed: dict[int, _Armed] = {}
        self._compared: list[Catch] = []
        self._told: list[Catch] = []
        self._comparisons = Comparisons(hv)
        self._follows_traps = False
        self._listens = False
        self._machine.stops.on_address = self._at_address
        self._machine.stops.on_access = self._accessed

    # -- the set ---------------------------------------------------------------------------

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _compile(self, condition: str | None) -> None:
        if condition and condition not in self._conditions:
            self._conditions[condition] = Condition(condition)

    def add_breakpoint(
        self,
        domain: int,
        va: int,
        *,
        hardware: bool = False,
        temporary: bool = False,
        condition: str | None = None,
    ) -> int:
        """Set a breakpoint; its number.

        Raises:
            DebugError: no such domain, or a bad condition.
        """
        self._state.domain(domain)
        self._compile(condition)
        number = self._number()
        va &= (1 << 64) - 1
        self.stops[number] = Breakpoint(number, domain, va, hardware, temporary, condition)
        self.refresh()
        return number

    def add_watchpoint(
        self, domain: int, va: int, length: int, kind: WatchKind, condition: str | None = None
    ) -> int:
        """Set a watchpoint; its number.

        Raises:
            DebugError: no such domain, a bad condition, or no sensible range.
        """
        self._state.domain(domain)
        if not 1 <= length <= MAX_WATCHED:
            raise DebugError(f"{length} bytes cannot be watched (1 to {MAX_WATCHED:,})")
        if kind not in _WATCH_REASONS:
            raise DebugError(f"{kind!r} is no kind of watchpoint (write, read, access)")
        self._compile(condition)
        number = self._number()
        self.stops[number] = Watchpoint(number, domain, va & (1 << 64) - 1, length, kind, condition)
        self.refresh()
        return number

    def add_catch(self, catch: Catch) -> int:
        """Set a catch (a copy of it is kept); its number.

        Raises:
            DebugError: it can never catch, or has a bad condition.
        """
        check(catch)
        self._compile(catch.condition)
        number = self._number()
        self.stops[number] = replace(catch, number=number)
        self.refresh()
        return number

    def remove(self, number: int) -> None:
        """Take a stop away.

        Raises:
            DebugError: there is none of that number.
        """
        if self.stops.pop(number, None) is None:
            raise DebugError(f"there is no breakpoint, watchpoint or catch {number}")
        self.refresh()

    def refresh(self) -> None:
        """Stops were added, removed or changed: connect what is needed and no more.

        Raises:
            DebugError: a condition that was changed in place is none.
        """
        for changed in self.stops.values():
            self._compile(changed.condition)
        active = [stop for stop in self.stops.values() if stop.enabled]
        for stop in active:
            self._compile(stop.condition)
        self._by_domain = {}
        for stop in active:
            if isinstance(stop, Breakpoint):
                mine = self._by_domain.setdefault(stop.domain, {})
                mine.setdefault(stop.va, []).append(stop)
        self._watches = [stop for stop in active if isinstance(stop, Watchpoint)]
        catches = [stop for stop in active if isinstance(stop, Catch)]
        self._compared = [catch for catch in catches if catch.kind in COMPARED]
        self._told = [catch for catch in catches if catch.kind not in COMPARED]
        self._follow_traps(bool(self._watches or self._compared))
        self._listen(bool(self._told))
        self._machine.stops.watching = bool(self._watches)
        armed = {stop.number: self._armed.get(stop.number, _Armed()) for stop in self._watches}
        self._armed = armed
        needed = bool(self._by_domain or self._watches or self._compared)
        self._hv.scheduler.on_slice = self._opened if needed else None
        self.resync()

    def resync(self) -> None:
        """The machine's state was replaced: look at everything anew and report nothing of it."""
        self.pending = None
        self._machine.stops.every = self.on_instruction is not None
        self._arm_addresses(self._hv.current)
        for watch in self._watches:
            armed = self._armed[watch.number]
            armed.pieces = self._resolve(watch)
            armed.value = self._watched_bytes(armed)
        self._arm_frames()
        for catch in self._compared:
            self._comparisons.take(catch)

    def _follow_traps(self, on: bool) -> None:
        if on == self._follows_traps:
            return
        self._follows_traps = on
        machine, hv = self._machine, self._hv
        if not on:
            machine.on_trap = hv.traps.on_trap
            machine.on_syscall = hv.dispatch.on_syscall
            return
        on_trap, on_syscall = hv.traps.on_trap, hv.dispatch.on_syscall

        def trap_followed(trap: Trap) -> None:
            on_trap(trap)
            self._look()

        def syscall_followed() -> None:
            on_syscall()
            self._look()

        machine.on_trap, machine.on_syscall = trap_followed, syscall_followed

    def _listen(self, on: bool) -> None:
        if on != self._listens:
            self._listens = on
            if on:
                self._hv.listen(self._happened)
            else:
                self._hv.unlisten(self._happened)

    # -- hits ------------------------------------------------------------------------------

    def _counts(self, stop: AnyStop, names: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether a hit counts, and what went wrong in judging it."""
        text = ""
        if stop.condition:
            try:
                self._compile(stop.condition)  # a search's own stops are not in the set
                if not self._conditions[stop.condition].holds(names):
                    return False, ""
            except DebugError as error:
                text = str(error)
        if self.on_hit is None:
            stop.hits += 1
            if stop.ignore > 0:
                stop.ignore -= 1
                return False, ""
        return True, text

    def _report(self, stop: Stop) -> bool:
        """A hit that counts; whether to stop for it."""
        if self.on_hit is not None:
            self.on_hit(stop)
            return False
        if self.pending is None:
            self.pending = stop
        return True

    def take(self) -> Stop | None:
        """The pending hit, which is then no more; a temporary stop that was hit goes away."""
        stop, self.pending = self.pending, None
        if stop is not None and stop.number is not None:
            hit = self.stops.get(stop.number)
            if isinstance(hit, Breakpoint | Catch) and hit.temporary:
                self.remove(hit.number)
        return stop

    # -- execution -------------------------------------------------------------------------

    def _opened(self, domain: Domain) -> None:
        """A slice of ``domain`` begins."""
        self._arm_addresses(domain)
        self.look()

    def _arm_addresses(self, domain: Domain) -> None:
        mine = self._by_domain.get(domain.id)
        self._machine.stops.set_addresses(frozenset(mine) if mine else frozenset())

    def _at_address(self, address: int) -> bool:
        hv = self._hv
        domain = hv.current
        position = self._machine.position - 1
        if self.on_instruction is not None and self.on_instruction(domain, address):
            return self._report(Stop(StopReason.STEP, domain.id, position))
        if position == self.passed:
            return False
        stops = False
        for point in self._by_domain.get(domain.id, {}).get(address, ()):
            counts, text = self._counts(point, self.cpu_names(domain))
            if counts:
                reason = StopReason.HWBREAK if point.hardware else StopReason.BREAKPOINT
                hit = Stop(reason, domain.id, position, number=point.number, text=text)
                stops |= self._report(hit)
        return stops

    def cpu_names(self, domain: Domain) -> CpuNames:
        """Names for a condition of the domain that is in the CPU."""
        return CpuNames(self._hv, self._state, domain)

    # -- data ------------------------------------------------------------------------------

    def _resolve(self, watch: Watchpoint) -> tuple[Piece, ...]:
        domain = self._hv.domains.get(watch.domain)
        if domain is None:
            return ()
        pieces = []
        done = 0
        while done < watch.length:
            va = watch.va + done
            part = min(watch.length - done, PAGE_SIZE - (va & PAGE_MASK))
            at = self._state.translate(domain, va)
            if at is not None:
                pieces.append((int(at), part, done))
            done += part
        return tuple(pieces)

    def _watched_bytes(self, armed: _Armed) -> bytes:
        data = self._machine.memory.bytes
        return b"".join(bytes(data[at : at + length]) for at, length, _ in armed.pieces)

    def _arm_frames(self) -> None:
        frames = {
            frame
            for armed in self._armed.values()
            for at, length, _ in armed.pieces
            for frame in (at >> PAGE_SHIFT, at + length - 1 >> PAGE_SHIFT)
        }
        self._machine.stops.set_frames(frozenset(frames))

    def _accessed(self, address: int, size: int, value: int | None) -> None:
        """An instruction is about to access a watched frame (machine address)."""
        for watch in self._watches:
            if watch.kind == ("read" if value is not None else "write"):
                continue
            armed = self._armed[watch.number]
            for at, length, offset in armed.pieces:
                if at < address + size and address < at + length:
                    self._hit_access(watch, armed, (at, length, offset), address, size, value)
                    break

    def _hit_access(
        self,
        watch: Watchpoint,
        armed: _Armed,
        piece: Piece,
        address: int,
        size: int,
        value: int | None,
    ) -> None:
        hv = self._hv
        if value is None and hv.current.id != watch.domain:
            return  # another domain's read is no concern of this one
        at, length, offset = piece
        old = self._watched_bytes(armed)
        new = old
        if value is not None:
            raw = bytearray(old)
            base = sum(size_ for _, size_, first in armed.pieces if first < offset)
            written = value.to_bytes(8, "little")[:size].ljust(size, b"\0")
            for i in range(size):
                if at <= address + i < at + length:
                    raw[base + address + i - at] = written[i]
            armed.value = new = bytes(raw)
        where = watch.va + offset + max(0, address - at)
        self._hit_watch(watch, where, old, new, self._machine.position)

    def _hit_watch(
        self, watch: Watchpoint, where: int, old: bytes, new: bytes, position: int
    ) -> None:
        domain = self._hv.current
        names = self.cpu_names(domain)
        names.more = {"old": _as_number(old), "new": _as_number(new)}
        counts, text = self._counts(watch, names)
        if counts:
            stop = Stop(
                _WATCH_REASONS[watch.kind], domain.id, position, number=watch.number,
                address=where, old=old, new=new, text=text,
            )  # fmt: skip
            if self._report(stop):
                self._hv.scheduler.hold()

    # -- traps and events ------------------------------------------------------------------

    def look(self) -> None:
        """The machine stands still: see what changed without a trap or a new slice (an end)."""
        if self._watches or self._compared:
            self._look()

    def _look(self) -> None:
        """The end of a trap, or the beginning of a slice."""
        moved = False
        for watch in self._watches:
            armed = self._armed[watch.number]
            pieces = self._resolve(watch)
            value, old = self._watched_bytes(armed), armed.value
            if pieces != armed.pieces:
                armed.pieces = pieces
                armed.value = self._watched_bytes(armed)
                moved = True
            elif value != old:
                armed.value = value
                if watch.kind != "read":
                    where = watch.va + _first_difference(armed, old, value)
                    self._hit_watch(watch, where, old, value, self._machine.position)
        if moved:
            self._arm_frames()
        for catch in self._compared:
            details = self._comparisons.changed(catch)
            if details is not None:
                self._caught(catch, catch.kind, self._hv.current, details)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        names = kinds_of(kind, details)
        if not names:
            return
        full: Mapping[str, Any] = details
        if kind == "trap" and domain is not None:
            full = fault_details(self._hv, domain, details)
        for catch in self._told:
            for name in names:
                number = None if domain is None else domain.id
                event = Event(kind, number, self._machine.position, full)
                if matches(catch, name, event):
                    self._caught(catch, kind, domain, full)
                    break

    def _caught(
        self, catch: Catch, kind: str, domain: Domain | None, details: Mapping[str, Any]
    ) -> None:
        number = None if domain is None or domain is self._hv.idle else domain.id
        position = self._machine.position
        event = Event(kind, number, position, details)
        names = {"d": details, "domain": number, "position": position, "kind": kind}
        counts, text = self._counts(catch, {**details, **names})
        if counts and self._report(
            Stop(StopReason.CATCH, number, position, catch.number, event=event, text=text)
        ):
            self._hv.scheduler.hold()


def _as_number(data: bytes) -> int | bytes:
    return int.from_bytes(data, "little") if len(data) <= 8 else data


def _first_difference(armed: _Armed, old: bytes, new: bytes) -> int:
    """Where in the watched range the first byte lies that differs."""
    at = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
    for _, length, offset in armed.pieces:
        if at < length:
            return offset + at
        at -= length
    return 0
