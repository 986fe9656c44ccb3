"""Going back: to a position, by instructions, and to the last moment at which something happened.

A search replays history from one snapshot to the next, beginning with the last, and notes every hit
of the stops that are set without stopping; the last hit before now is where to go. So going back to
a breakpoint takes two passes over what lies between it and the snapshot before it, and one over
everything behind it.

How it fails: what is not found ends at the start of history; an interrupt ends a search where it
began.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from emu.disasm import disassemble
from emu.registers import Registers
from hypervisor.debug.model import AnyStop, Breakpoint, Catch, DebugError, Stop, Watchpoint
from hypervisor.debug.state import DomainState
from hypervisor.debug.stopset import StopSet
from hypervisor.debug.timeline import Timeline
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor

_WINDOWS: Final = (5_000, 200_000)
"""Instructions that are traced one by one to find a call, first few and then more."""
_CALL_LENGTHS: Final = (2, 3, 4, 5, 6, 7)
_STACK: Final = 8192
"""Bytes of stack that are looked through for return addresses."""


class Interrupted(Exception):
    """Somebody interrupted a search."""


class Traveller:
    """Moves a machine along its history."""

    def __init__(
        self,
        hv: Hypervisor,
        state: DomainState,
        stops: StopSet,
        timeline: Timeline,
        interrupted: Callable[[], bool],
    ) -> None:
        self._hv = hv
        self._state = state
        self._stops = stops
        self._timeline = timeline
        self._interrupted = interrupted

    # -- to a position ---------------------------------------------------------------------

    @contextmanager
    def _quietly(self, on_hit: Callable[[Stop], None]) -> Iterator[None]:
        """Hits go to ``on_hit`` and nothing stops."""
        self._stops.on_hit = on_hit
        try:
            yield
        finally:
            self._stops.on_hit = None
            self._stops.resync()

    def go(self, position: int) -> None:
        """Go to a position of history; nothing stops on the way.

        Raises:
            DebugError: it lies outside of it.
        """
        with self._alone(()), self._quietly(lambda stop: None):
            self._timeline.go(position)

    def back_to(self, position: int) -> None:
        """Go to a position anew, even if the machine stands there: an ended domain lives again."""
        with self._alone(()), self._quietly(lambda stop: None):
            if self._timeline.snapshots:
                self._timeline.restore(self._timeline.nearest(max(0, position - 1)))
            self._timeline.go(position)

    @contextmanager
    def _alone(self, wanted: tuple[AnyStop, ...]) -> Iterator[None]:
        """Only these stops are set for a while."""
        kept = dict(self._stops.stops)
        self._stops.stops.clear()
        self._stops.stops.update({stop.number: stop for stop in wanted})
        self._stops.refresh()
        try:
            yield
        finally:
            self._stops.stops.clear()
            self._stops.stops.update(kept)
            self._stops.refresh()

    # -- searching -------------------------------------------------------------------------

    def _intervals(self, end: int) -> Iterator[int]:
        """Put the machine to each snapshot before ``end``, the last one first; yields where the
        interval ends that begins there.
        """
        timeline = self._timeline
        while end > timeline.start:
            index = timeline.nearest(end - 1)
            timeline.restore(index)
            begins = timeline.position
            yield end
            end = begins

    def _run_interval(self, end: int) -> None:
        timeline = self._timeline
        self._stops.passed = -1
        while timeline.position < end:
            if self._interrupted():
                raise Interrupted
            timeline.advance(end)
            self._stops.look()

    def last_hit(self, end: int, accept: Callable[[Stop], bool]) -> Stop | None:
        """The last hit of what is set, up to ``end``, and go there; None: at the start of history.

        Raises:
            Interrupted: the search was given up, and the machine is where it was.
        """
        back_to = self._timeline.position
        last: Stop | None = None

        def note(stop: Stop) -> None:
            nonlocal last
            if accept(stop):
                last = stop

        try:
            with self._quietly(note):
                for until in self._intervals(end):
                    self._run_interval(until)
                    if last is not None:
                        break
        except Interrupted:
            self.go(back_to)
            raise
        self.go(last.position if last is not None else self._timeline.start)
        return last

    def last_of(self, stop: AnyStop, end: int, accept: Callable[[Stop], bool]) -> Stop | None:
        """``last_hit`` with only this stop set."""
        with self._alone((stop,)):
            return self.last_hit(end, accept)

    def last_write(self, domain: int, va: int, length: int) -> Stop | None:
        """Behind the last instruction that wrote one of these bytes."""
        self._state.domain(domain)
        watch = Watchpoint(0, domain, va, length, "write")
        return self.last_of(watch, self._timeline.position, lambda stop: True)

    def last_change(self, pte: int) -> Stop | None:
        """The end of the trap that made an entry what it is."""
        catch = Catch("pte", address=pte)
        return self.last_of(catch, self._timeline.position, lambda stop: True)

    def last_share(self, mfn: int) -> Stop | None:
        """The end of the trap in which a frame was last entered or merged into."""
        catch = Catch("share", mfn=mfn)
        return self.last_of(catch, self._timeline.position, lambda stop: True)

    # -- by instructions -------------------------------------------------------------------

    def before(self, domain: int, count: int, end: int) -> int | None:
        """The position before the last ``count`` instructions that a domain started up to ``end``.

        None if history has fewer. The machine is left somewhere.
        """
        scheduler = self._hv.scheduler
        slices: list[tuple[int, int]] = []
        with self._alone(()), self._quietly(lambda stop: None):
            for until in self._intervals(end):
                running = scheduler.running
                slices.clear()
                if running is not None:
                    slices.append((self._timeline.position, running.id))
                scheduler.on_slice = lambda opened: slices.append(
                    (self._hv.machine.position, opened.id)
                )
                try:
                    self._run_interval(until)
                finally:
                    scheduler.on_slice = None
                upper = until
                for began, who in reversed(slices):
                    if who == domain:
                        if upper - began >= count:
                            return upper - count
                        count -= upper - began
                    upper = began
        return None

    def back(self, domain: int, count: int) -> bool:
        """Undo ``count`` instructions of a domain; False at the start of history."""
        now = self._timeline.position
        try:
            wanted = self.before(domain, count, now)
        except Interrupted:
            self.go(now)
            raise
        self.go(self._timeline.start if wanted is None else wanted)
        return wanted is not None

    # -- by calls --------------------------------------------------------------------------

    def call_before(self, domain: int, back: int, sp: int, end: int) -> Stop | None:
        """Go to the last call that would have returned to ``back`` with this stack pointer."""
        bits = self._state.registers(domain).bits
        points: list[AnyStop] = []
        for length in _CALL_LENGTHS:
            code = self._state.read(domain, back - length, length)
            found = next(iter(disassemble(code, back - length, bits)), None)
            if found is not None and found.size == length and found.mnemonic.startswith("call"):
                points.append(Breakpoint(-length, domain, back - length, condition=f"rsp == {sp}"))
        if not points:
            return None
        with self._alone(tuple(points)):
            return self.last_hit(end, lambda stop: stop.position < end)

    def caller(self, domain: int, now: Registers, end: int) -> int | None:
        """The position of the call of the function that a domain is in; None if not found.

        That is the last call whose return address lies above everything that the stack pointer
        reached since. The machine is left somewhere.
        """
        for window in _WINDOWS:
            found = self._traced_caller(domain, now, end, window)
            if found is not None:
                return found
        return self._guessed_caller(domain, now, end)

    def _traced_caller(self, domain: int, now: Registers, end: int, window: int) -> int | None:
        start = max(self._timeline.start, end - window)
        self.go(start)
        cpu = self._hv.machine.cpu
        steps: list[tuple[int, int, int]] = []

        def note(running: Domain, rip: int) -> bool:
            if running.id == domain:
                steps.append((self._hv.machine.position - 1, rip, cpu.register("rsp")))
            return False

        with self._alone(()), self._quietly(lambda stop: None):
            self._stops.on_instruction = note
            self._stops.resync()
            try:
                self._run_interval(end)
            finally:
                self._stops.on_instruction = None
        word = now.bits // 8
        reached = now.value("rsp")
        self.go(start)
        for position, rip, sp in reversed(steps):
            if sp - word >= reached and self._is_call(domain, rip, now.bits):
                return position
            reached = max(reached, sp)
        return None

    def _is_call(self, domain: int, rip: int, bits: int) -> bool:
        code = self._state.read(domain, rip, 15)
        found = next(iter(disassemble(code, rip, bits, 1)), None)
        return found is not None and found.mnemonic.startswith("call")

    def _guessed_caller(self, domain: int, now: Registers, end: int) -> int | None:
        """By return addresses on the stack: each may be of a call that was made just there."""
        self.go(end)
        word = now.bits // 8
        sp = now.value("rsp")
        stack = self._state.read(domain, sp, _STACK)
        points: list[AnyStop] = []
        for offset in range(0, len(stack) - word + 1, word):
            back = int.from_bytes(stack[offset : offset + word], "little")
            for length in _CALL_LENGTHS:
                code = self._state.read(domain, back - length, length)
                if len(code) < length:
                    continue
                found = next(iter(disassemble(code, back - length, now.bits)), None)
                if found is not None and found.size == length and found.mnemonic[:4] == "call":
                    condition = f"rsp == {sp + offset + word}"
                    number = -len(points) - 1
                    points.append(Breakpoint(number, domain, back - length, condition=condition))
                    break
            if points and self._timeline.start < end:
                with self._alone(tuple(points[-1:])):
                    hit = self.last_hit(end, lambda stop: stop.position < end)
                if hit is not None:
                    return hit.position
                points.clear()
                self.go(end)
        return None

    def check_history(self) -> None:
        """Refuse to travel in a run that is not recorded.

        Raises:
            DebugError: it is not.
        """
        if not self._timeline.snapshots:
            raise DebugError("this run is not recorded: there is no way back")
