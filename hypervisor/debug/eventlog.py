"""What happened so far: every event of the run up to now, for ``events`` and ``trace``.

Events that are told again while recorded instructions run again are the same events, and are not
kept twice; those behind the present position are not shown. Bounded: the oldest are forgotten.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from hypervisor.debug.model import Event
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.debug.debugger import Debugger

MAX_EVENTS: Final = 200_000


class EventLog:
    """The events of a debugger's machine from now on."""

    def __init__(self, debugger: "Debugger") -> None:
        self._debugger = debugger
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.on_event: Callable[[Event], None] | None = None
        """Told of each new event."""
        debugger.hv.listen(self._happened)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if self._debugger.replaying:
            return
        position = self._debugger.hv.machine.position
        # A new future: what was logged behind its beginning never happened.
        while self._events and self._events[-1].position > position:
            self._events.pop()
        event = Event(kind, None if domain is None else domain.id, position, dict(details))
        self._events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def __iter__(self) -> Iterator[Event]:
        """The events up to now, oldest first."""
        now = self._debugger.position
        positions = [event.position for event in self._events]
        events = list(self._events)
        return iter(events[: bisect_right(positions, now)])
