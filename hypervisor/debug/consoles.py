"""Consoles under time travel: what is printed twice is shown once.

A console's lines are the same whenever the same instructions run again, so only how many there are
belongs to a snapshot; the lines themselves are kept here. Its sink (and, of a console that shows
bytes as they come, its ``_show``) is called only for what was never shown before.
"""

from collections.abc import Callable
from typing import Any

from hypervisor.console import Console


class KeptConsole:
    """One console, and the most that it ever said."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lines: list[str] = list(console.lines)
        self._shown = len(console.lines)
        self._bytes_shown = console.written + console.dropped
        attributes: dict[str, Any] = vars(console)
        sink: Callable[[str], None] | None = attributes.get("_sink")
        if sink is not None:
            attributes["_sink"] = self._guard(sink)
        show: Callable[[bytes], None] | None = attributes.get("_show")
        if show is not None:
            attributes["_show"] = self._guard_bytes(show)

    def _guard(self, sink: Callable[[str], None]) -> Callable[[str], None]:
        def line(text: str) -> None:
            if len(self.console.lines) > self._shown:
                self._shown = len(self.console.lines)
                sink(text)

        return line

    def _guard_bytes(self, show: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def some(data: bytes) -> None:
            # Called before the console takes them.
            after = self.console.written + self.console.dropped + len(data)
            new = after - self._bytes_shown
            if new > 0:
                self._bytes_shown = after
                show(data[-new:])

        return some

    def note(self) -> int:
        """How many lines there are now."""
        return len(self.console.lines)

    def restore(self, lines: int) -> None:
        """Have it be so many lines again."""
        if len(self.console.lines) > len(self._lines):
            self._lines = list(self.console.lines)
        self.console.lines[:] = self._lines[:lines]

    def cut(self) -> None:
        """A new future begins now: what was said behind it was never said."""
        self._lines = list(self.console.lines)
        self._shown = len(self._lines)
        self._bytes_shown = self.console.written + self.console.dropped
