"""The console of a single domain: its bytes go to stdout as they are, stdin's bytes go to it.

A terminal is switched to give single keys (and to leave echoing to the guest) while the guest
runs; Ctrl-C stays Ctrl-C. A guest that reads an empty console is made to wait: on a terminal for a
moment, so that a polling guest does not use its instructions up; on a pipe or file until there is
input or its end, so that the same input gives the same run.
"""

import os
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hypervisor.console import Console, Sink

_MOMENT: Final = 0.05
"""Seconds that a read waits for a key."""
_CHUNK: Final = 4096


class InteractiveConsole(Console):
    """A console joined to this process's stdin.

    ``show`` is given the guest's bytes; ``give_up`` is asked, while waiting, whether to stop.
    """

    def __init__(
        self, sink: Sink, show: Callable[[bytes], None], give_up: Callable[[], bool]
    ) -> None:
        super().__init__(sink)
        self._show = show
        self._give_up = give_up
        self._stdin: int | None = _stdin()
        self._terminal = self._stdin is not None and os.isatty(self._stdin)

    def write(self, data: bytes) -> None:
        """Show the guest's output at once, and take it."""
        self._show(data)
        super().write(data)

    @property
    def waiting(self) -> int:
        """Bytes of input for the guest, which is asking; waits for some as the module says."""
        if not self._waiting:
            self.wait(once=self._terminal)
        return self._waiting

    def wait(self, once: bool = False) -> bool:
        """Wait for input, or only a moment (``once``); False if none came or it has ended."""
        stdin = self._stdin
        while stdin is not None and not self._give_up():
            ready, _, _ = select.select([stdin], [], [], _MOMENT)
            if ready:
                data = os.read(stdin, _CHUNK)
                if not data:
                    self._stdin = None
                return self.feed(data) > 0
            if once:
                return False
        return False


def _stdin() -> int | None:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None  # closed, or no file (a test's): nobody types anything


@contextmanager
def single_keys() -> Iterator[None]:
    """While the guest runs: keys come one by one and are not echoed, if stdin is a terminal."""
    stdin = _stdin()
    if stdin is None or not os.isatty(stdin):
        yield
        return
    before = termios.tcgetattr(stdin)
    raw = termios.tcgetattr(stdin)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(stdin, termios.TCSADRAIN, raw)
    try:
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
