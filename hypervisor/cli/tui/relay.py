"""What would be printed while the terminal view has the terminal: kept until the view takes it.

Guests' consoles and traced events come from the thread that runs a command.
"""

from collections import deque

from hypervisor.cli.screen import Screen
from hypervisor.results import DomainRecord

MAX_LINES = 10_000
"""Lines that wait at most; the oldest are dropped, their number is told."""


class Relay(Screen):
    """A screen whose lines go to the view; behind the view's back they go where they used to."""

    def __init__(self, taken: bool = False) -> None:
        super().__init__(taken)
        self.holding = False
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._dropped = 0

    def take(self) -> list[str]:
        """The lines since the last time."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if self._dropped:
            lines.insert(0, f"({self._dropped:,} lines are not shown)")
            self._dropped = 0
        return lines

    def _hold(self, text: str) -> None:
        for line in text.splitlines():
            self._dropped += len(self._lines) == MAX_LINES
            self._lines.append(line)

    def guest_line(self, record: DomainRecord, text: str) -> None:
        """A line of a console."""
        if self.holding:
            self._hold(f"d{record.id} {record.name} | {text}")
        else:
            super().guest_line(record, text)

    def raw(self, data: bytes) -> None:
        """Bytes of a console."""
        if self.holding:
            self._hold(data.decode("utf-8", "replace"))
        else:
            super().raw(data)

    def say(self, text: str) -> None:
        """A line among the results."""
        if self.holding:
            self._hold(text)
        else:
            super().say(text)

    def tell(self, text: str) -> None:
        """A line that would go to stderr."""
        if self.holding:
            self._hold(text)
        else:
            super().tell(text)
