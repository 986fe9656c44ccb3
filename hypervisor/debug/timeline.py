"""The history of a run: its inputs, snapshots here and there, and going to any position of it.

Invariants: ``inputs`` is in order of position, and the first ``applied`` of them are in the state
of the machine; standing at a position means that all inputs of that position were made. Snapshots
are in order of position; the first is the start of history and is never dropped.

Where snapshots lie changes nothing but how long going back takes, so this may look at the host's
clock: the next one is taken when running on has cost a few times what the last one did, and they
are thinned out when they become many or large. Nothing else here depends on it.
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

from hypervisor.debug.consoles import KeptConsole
from hypervisor.debug.inputs import Input, apply
from hypervisor.debug.model import DebugError
from hypervisor.debug.snapshot import Snapshot, Snapshots
from hypervisor.debug.state import DomainState
from hypervisor.hypervisor import Hypervisor

MAX_SNAPSHOTS: Final = 120
MAX_BYTES: Final = 512 << 20
"""Bytes of all snapshots together."""
_INTERVAL: Final = 0.1
"""Seconds of running between two snapshots, at least."""
_COSTS: Final = 3
"""How many times the cost of the last snapshot lies between two."""
_CHUNK_SECONDS: Final = 0.03
_LEAST_CHUNK: Final = 20_000
_MOST_CHUNK: Final = 5_000_000
_FAR: Final = 40_000
"""Instructions run to get somewhere from which a snapshot on the way is worth its while."""
_NEAR: Final = 16
"""The part of such a way that is left behind that snapshot."""


class Timeline:
    """Runs a machine forward, and puts it back.

    ``record`` False: no snapshots, so that there is no way back.
    """

    def __init__(self, hv: Hypervisor, state: DomainState, record: bool = True) -> None:
        self._hv = hv
        self._state = state
        self.inputs: list[Input] = []
        self.applied = 0
        self.start = hv.machine.position
        self.end = self.start
        """The furthest position of this history."""
        self._seen = self.start
        """The furthest position that was run to here: a recording's end may lie behind it."""
        self.sealed = False
        """The history is a recording's: it is not run on behind its end."""
        self.replaying = False
        """What runs has run here before."""
        self.on_cut: list[Callable[[int], None]] = []
        """Told of the position at which a new future begins."""
        self.on_restore: Callable[[], None] = lambda: None
        self.snapshots: list[Snapshot] = []
        self.seconds = 0.0
        """Spent in taking snapshots."""
        self._consoles: dict[int, KeptConsole] = {}
        self._chunk = 10 * _LEAST_CHUNK
        self._since = 0.0
        self._cost = 0.0
        self.keep_consoles()
        self._snapshots: Snapshots | None = None
        if record:
            self._snapshots = Snapshots(hv)
            self.snapshot()

    @property
    def position(self) -> int:
        """Where the machine stands."""
        return self._hv.machine.position

    @property
    def past(self) -> bool:
        """True if something of this history lies before us."""
        return self.position < self.end or self.applied < len(self.inputs)

    def keep_consoles(self) -> None:
        """Look after the consoles of domains that are new."""
        for number, domain in self._hv.domains.items():
            if number not in self._consoles:
                self._consoles[number] = KeptConsole(domain.console)

    # -- forward ---------------------------------------------------------------------------

    def advance(self, limit: int | None) -> bool:
        """Run a moment, at most to position ``limit``; True if no domain can run any more."""
        hv = self._hv
        before = hv.machine.position
        boundary = before + self._chunk
        if limit is not None:
            boundary = min(boundary, limit)
        self.replaying = before < self._seen
        if self.replaying:
            boundary = min(boundary, self._seen)
        if before < self.end:
            boundary = min(boundary, self.end)
            if self.applied < len(self.inputs):
                boundary = min(boundary, self.inputs[self.applied].position)
        if boundary <= before:
            return False
        began = time.thread_time()
        finished = hv.run(boundary - before)
        elapsed = time.thread_time() - began
        now = hv.machine.position
        if elapsed > 0 and now > before:
            wanted = int((now - before) * _CHUNK_SECONDS / elapsed)
            wanted = min(wanted, 2 * self._chunk)
            self._chunk = min(max(wanted, _LEAST_CHUNK), _MOST_CHUNK)
        self._seen = max(self._seen, now)
        self.end = max(self.end, now)
        if self._apply_due():
            finished = False
        self.replaying = now < self._seen
        self._since += elapsed
        if self._snapshots is not None:
            self._snapshot_if_due(before, now)
        return finished

    def _snapshot_if_due(self, before: int, now: int) -> None:
        at = bisect_right(self.snapshots, now, key=lambda s: s.position)
        if at and self.snapshots[at - 1].position > before:
            self._since = 0.0  # we came past one
        elif self._since >= max(_INTERVAL, _COSTS * self._cost):
            self.snapshot()

    def _apply_due(self) -> bool:
        """Make the inputs of this position; True if there were any."""
        first = self.applied
        while self.applied < len(self.inputs):
            given = self.inputs[self.applied]
            if given.position > self.position:
                break
            self.applied += 1
            apply(self._hv, self._state, given)
        return self.applied != first

    def follow(self, inputs: list[Input], end: int) -> None:
        """The history is a recording's, and this is its beginning."""
        self.inputs = list(inputs)
        self.end = end
        self.sealed = True
        self._apply_due()

    # -- inputs ----------------------------------------------------------------------------

    def make(self, given: Input) -> None:
        """Make a new input, here and now. In the past it begins a new future.

        Raises:
            DebugError: it cannot be made; nothing has changed.
        """
        apply(self._hv, self._state, given)
        self.cut()
        self.inputs.append(given)
        self.applied += 1

    def cut(self) -> None:
        """Forget what was recorded behind this moment."""
        if self.sealed or self.past:
            self.sealed = False
            del self.inputs[self.applied :]
            position = self.position
            self.snapshots = [
                s for s in self.snapshots
                if s.position < position or (s.position == position and s.inputs <= self.applied)
            ]  # fmt: skip
            self.end = self._seen = position
            self.replaying = False
            for console in self._consoles.values():
                console.cut()
            for tell in self.on_cut:
                tell(position)

    # -- back ------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Take a snapshot of now, unless there is one."""
        if self._snapshots is None:
            return
        self._since = 0.0
        at = bisect_right(self.snapshots, self.position, key=lambda s: s.position)
        if at and self.snapshots[at - 1].position == self.position:
            return
        began = time.thread_time()
        extra = {"consoles": {n: kept.note() for n, kept in self._consoles.items()}}
        taken = self._snapshots.take(self.applied, extra)
        self.snapshots.insert(at, taken)
        if len(self.snapshots) > MAX_SNAPSHOTS or self._large():
            self._thin()
        self._cost = time.thread_time() - began
        self.seconds += self._cost

    def _large(self) -> bool:
        return sum(s.own for s in self.snapshots) > MAX_BYTES

    def _thin(self) -> None:
        """Drop every snapshot whose neighbours are close together, for the distance to now."""
        kept = self.snapshots
        while len(kept) > MAX_SNAPSHOTS * 3 // 4 or (len(kept) > 8 and self._size(kept)):
            # The one without which the gap is smallest, measured by how long ago it was.
            now = self.end + 1
            costs = [
                ((kept[i + 1].position - kept[i - 1].position) / (now - kept[i].position), i)
                for i in range(1, len(kept) - 1)
            ]
            if not costs:
                break
            del kept[min(costs)[1]]

    def _size(self, kept: list[Snapshot]) -> bool:
        return self._snapshots is not None and self._snapshots.size(kept) > MAX_BYTES

    def nearest(self, position: int) -> int:
        """Index of the last snapshot at or before ``position``.

        Raises:
            DebugError: history begins later, or is not kept.
        """
        at = bisect_right(self.snapshots, position, key=lambda s: s.position) - 1
        if at < 0:
            if self._snapshots is None:
                raise DebugError("this run is not recorded: there is no way back")
            raise DebugError(f"position {position:,} lies before the start of history")
        return at

    def restore(self, index: int) -> None:
        """Put the machine back to a snapshot."""
        if self._snapshots is None:
            raise DebugError("this run is not recorded: there is no way back")
        snapshot = self.snapshots[index]
        lines: dict[int, int] = snapshot.extra["consoles"]
        for number, kept in self._consoles.items():
            kept.restore(lines.get(number, 0))
        self._snapshots.restore(snapshot)
        self._hv.breakpoints.arm(self._hv.current)  # the guest's own
        self.applied = snapshot.inputs
        self._since = 0.0
        self.on_restore()
        self.replaying = self.position < self._seen
        self._apply_due()

    def run_to(self, position: int) -> None:
        """Run forward to a position of the history; stops must not be in the way.

        Raises:
            DebugError: the machine cannot get there: the run did not repeat.
        """
        while self.position < position:
            before = self.position
            finished = self.advance(position)
            if finished and self.position < position and self.position == before:
                raise DebugError(f"the run does not repeat: nothing can run at position {before:,}")

    def go(self, position: int) -> None:
        """Go to a position between the start and the end of history.

        Raises:
            DebugError: it lies outside.
        """
        if not self.start <= position <= self.end:
            raise DebugError(
                f"position {position:,} is not in history ({self.start:,} to {self.end:,})"
            )
        index = self.nearest(position) if self._snapshots is not None else -1
        if position < self.position or (
            index >= 0 and self.snapshots[index].position > self.position
        ):
            self.restore(self.nearest(position))
        way = position - self.position
        if way > _FAR and self._snapshots is not None:
            self.run_to(position - way // _NEAR)
            self.snapshot()
        self.run_to(position)
        self.replaying = self.position < self._seen

    def facts(self) -> dict[str, Any]:
        """Numbers about the recording, for a person."""
        size = 0 if self._snapshots is None else self._snapshots.size(self.snapshots)
        return {
            "start": self.start,
            "end": self.end,
            "inputs": len(self.inputs),
            "snapshots": len(self.snapshots),
            "bytes": size,
        }
