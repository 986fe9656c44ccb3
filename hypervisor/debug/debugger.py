"""The debugger: a machine under control that can also go back in time, and be kept in a file.

Going back is restoring an earlier snapshot and running forward again, with the same inputs at the
same positions (``hypervisor.debug.timeline``, ``travel``). Front ends (gdb's protocol, the prompt,
the terminal view) use this class and nothing below it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypervisor.console import Console
from hypervisor.debug.control import ControlledMachine
from hypervisor.debug.model import DebugError, Stop, StopReason
from hypervisor.debug.recording import Recording, dump, load
from hypervisor.debug.snapshot import fingerprint
from hypervisor.debug.travel import Interrupted
from hypervisor.hypervisor import Hypervisor


class Debugger(ControlledMachine):
    """One machine, with the domains that it has now and all of its history.

    ``record`` False: no snapshots are taken, so that there is no way back, and running costs
    nothing.
    """

    # -- back in time ----------------------------------------------------------------------

    def goto(self, position: int) -> Stop:
        """Go to a position of the recorded history; nothing stops on the way.

        Raises:
            DebugError: it lies outside of it.
        """
        self._travel.go(position)
        return self._stopped(self._stop(StopReason.STEP))

    def _travelled(self, search: Callable[[], Stop | None], domain: int | None = None) -> Stop:
        """Where a search went; nothing found: the start of history."""
        self._travel.check_history()
        try:
            found = search()
        except Interrupted:
            return self._stopped(self._stop(StopReason.INTERRUPT))
        if found is None:
            found = self._stop(StopReason.START_OF_HISTORY, domain)
        elif not found.number:
            found = replace(found, number=None)  # of a stop that nobody set
        return self._stopped(found)

    def reverse_step(self, domain: int, count: int = 1) -> Stop:
        """Undo the last ``count`` instructions of a domain.

        Raises:
            DebugError: the run is not recorded.
        """

        def search() -> Stop | None:
            found = self._travel.back(domain, count)
            return self._stop(StopReason.STEP, domain) if found else None

        return self._travelled(search, domain)

    def reverse_cont(self, only: frozenset[int] | None = None) -> Stop:
        """Go back to the last hit before now, or to the start of history.

        ``only``: hits of these domains, None for all.

        Raises:
            DebugError: the run is not recorded.
        """
        now, last = self.position, self.last_stop
        points = (StopReason.BREAKPOINT, StopReason.HWBREAK)

        def accept(stop: Stop) -> bool:
            if only is not None and stop.domain is not None and stop.domain not in only:
                return False
            if stop.position < now:
                return True
            # What the last instruction did is behind us, unless that is why we stand here.
            here = last is not None and (last.position, last.number) == (now, stop.number)
            return not here and stop.reason not in points

        return self._travelled(lambda: self._travel.last_hit(now, accept))

    def reverse_next(self, domain: int) -> Stop:
        """Undo one instruction, and if it was a return all of what was called.

        Raises:
            DebugError: no such domain, or the run is not recorded.
        """
        here = self.registers(domain)
        stop = self.reverse_step(domain)
        if stop.reason is not StopReason.STEP or domain not in self.hv.domains:
            return stop
        there = self.registers(domain)
        if not self._is_return(domain, there.rip, there.bits):
            return stop
        end = self.position

        def search() -> Stop:
            if self._travel.call_before(domain, here.rip, here.value("rsp"), end) is None:
                self._travel.go(end)
            return self._stop(StopReason.STEP, domain)

        return self._travelled(search, domain)

    def reverse_finish(self, domain: int) -> Stop:
        """Go back to the call of the function that the domain is in, or to the start of history.

        Raises:
            DebugError: no such domain, or the run is not recorded.
        """
        now, registers = self.position, self.registers(domain)

        def search() -> Stop | None:
            found = self._travel.caller(domain, registers, now)
            self._travel.go(self.start if found is None else found)
            return None if found is None else self._stop(StopReason.STEP, domain)

        return self._travelled(search, domain)

    def last_write(self, domain: int, va: int, length: int = 8) -> Stop:
        """Go to right behind the last instruction, or trap, that wrote one of these bytes.

        The address means what it meant at each moment. Nobody did: the start of history.

        Raises:
            DebugError: no such domain, or the run is not recorded.
        """
        self.state.domain(domain)
        return self._travelled(lambda: self._travel.last_write(domain, va, length))

    def last_change(self, pte: int) -> Stop:
        """Go to the end of the trap that made the entry at machine address ``pte`` what it is.

        Raises:
            DebugError: the run is not recorded.
        """
        return self._travelled(lambda: self._travel.last_change(pte))

    def last_share(self, mfn: int) -> Stop:
        """Go to the end of the trap in which frame ``mfn`` was last entered or merged into.

        Raises:
            DebugError: the run is not recorded.
        """
        return self._travelled(lambda: self._travel.last_share(mfn))

    def checkpoint(self, name: str) -> int:
        """Give the present position a name for ``goto``; the position."""
        self.checkpoints[name] = self.position
        return self.position

    def save(self, path: str) -> None:
        """Write the recording into a file.

        Raises:
            DebugError: it cannot be written, or was not begun with what it starts from.
        """
        if not self._complete:
            raise DebugError("this run cannot be saved: it was not followed from its beginning")
        recording = Recording(
            self.hv.settings,
            self._starts,
            self.timeline.inputs,
            self.end,
            self.end_state(),
            dict(self.checkpoints),
        )
        try:
            Path(path).write_bytes(dump(recording))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise DebugError(f"{path}: cannot be written: {why}") from error

    def end_state(self) -> str:
        """The fingerprint of the machine at the end of history, what ended there given back.

        Raises:
            DebugError: the run is not recorded, and its end lies elsewhere.
        """
        now = self.position
        here = self.hv.scheduler.running
        self._travel.go(self.end)
        self.hv.scheduler.settle()
        state = fingerprint(self.hv)
        if self.position != now or self.hv.scheduler.running is not here:
            self._travel.back_to(now)
        return state

    @classmethod
    def open(cls, path: str) -> "Debugger":
        """A debugger at the beginning of a recording.

        Raises:
            RecordingError: the file cannot be replayed here.
        """
        recording = load(path)
        hv = Hypervisor(recording.settings)
        for start in recording.domains:
            recording.build(hv, start, Console())
        debugger = cls(hv)
        debugger.follow(recording)
        return debugger

    def follow(self, recording: Recording) -> None:
        """What runs is a recording, from its beginning: its inputs come by themselves."""
        self.timeline.follow(recording.inputs, recording.end)
        self.checkpoints.update(recording.checkpoints)
