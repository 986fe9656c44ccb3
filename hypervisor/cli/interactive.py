"""The console of a single domain: its bytes go to stdout as they are, stdin's bytes go to it.

A terminal is switched to give single keys (and to leave echoing to the guest) while the guest
runs; Ctrl-C stays Ctrl-C. A guest that reads an empty console is made to wait: on a terminal for a
moment, so that a polling guest does not use its instructions up; on a pipe or file until there is
input or its end, so that the same input gives the same run.

A guest that reads its console ring does not ask: it looks into its own memory, and may look for
ever without a hypercall. ``Attendant`` watches it in small steps. If all it does in one is to read
the clock, to yield or to wait, it gets input, and if there is none it is made to wait for a moment
by the host's clock, while as much time goes by for it. So a prompt costs the host next to nothing,
and a guest's own timeouts take their time. Where input comes from a pipe, it is looked at in such
moments only: what was written before the guest is ready for it is there when it is.
"""

import os
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from hypervisor.console import Console, Sink
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_MOMENT: Final = 0.05
"""Seconds that a read waits for a key."""
_NANOSECONDS: Final = 1_000_000_000
BUSY_STEP: Final = 100_000
IDLE_STEP: Final = 10_000
"""Instructions between two looks at a guest that reads its console ring."""
_CLOCK_READS: Final = 1000
"""Instructions per look at the clock: a guest that looks more often is taken to wait."""
_PATIENCE: Final = 60
"""Seconds of the guest's time that it may wait for input when there will be no more."""
_LEAP: Final = 1.0
"""Seconds that go by for such a guest at each look."""
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

    @property
    def terminal(self) -> bool:
        """True if a person may type at any time."""
        return self._terminal and not self.ended

    @property
    def ended(self) -> bool:
        """True if there will be no more input."""
        return self._stdin is None

    def wait(self, once: bool = False, moment: float = _MOMENT) -> bool:
        """Wait for input, or only ``moment`` seconds (``once``); False if none came, or its end."""
        stdin = self._stdin
        while stdin is not None and not self._give_up():
            ready, _, _ = select.select([stdin], [], [], moment)
            if ready:
                data = os.read(stdin, _CHUNK)
                if not data:
                    self._stdin = None
                return self.feed(data) > 0
            if once:
                return False
        return False


class Attendant:
    """Brings keys to the one domain whose console is joined to stdin, if it reads its ring."""

    def __init__(self, hv: "Hypervisor", domain: Domain, console: InteractiveConsole) -> None:
        self._hv = hv
        self._domain = domain
        self._console = console
        self._before = self._activity()
        self._idle = False
        self._starving = 0.0
        self._unused_step = BUSY_STEP // 2

    @property
    def active(self) -> bool:
        """True if the guest lives and reads its ring."""
        ring = self._hv.console_ring(self._domain)
        return ring is not None and ring.used and self._domain.exit is None

    def step(self, most: int) -> int:
        """Instructions until the next ``attend``: up to ``most`` if the guest uses no ring."""
        if self.active:
            return IDLE_STEP if self._idle else BUSY_STEP
        self._unused_step = min(2 * self._unused_step, most)
        return self._unused_step

    def _activity(self) -> tuple[int, int, int, int, int]:
        domain = self._domain
        return (
            self._console.written,
            domain.hypercalls - domain.waits,
            domain.clock_reads + domain.waits,
            self._hv.scheduler.skipped,
            self._hv.machine.position,
        )

    def _waits(self) -> bool:
        """True if in its last step the guest did nothing but wait."""
        before, self._before = self._before, self._activity()
        written, calls, looks, skipped, steps = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        if written or steps <= 0:
            return False
        return skipped > steps or (not calls and looks * _CLOCK_READS > steps)

    def attend(self) -> bool:
        """Give the guest what was typed; False if it waits for what can never be typed."""
        if not self.active:
            return True
        self._idle = self._waits()
        ring = self._hv.console_ring(self._domain)
        if ring is None or not ring.empty:
            return True
        console = self._console
        if console.ended:
            if not self._idle:
                self._starving = 0.0
                return True
            self._starving += _LEAP
            self._pass(_LEAP)
            return self._starving < _PATIENCE
        if self._idle:
            if not console.wait(once=True) and not console.ended:
                self._pass(_MOMENT)
        elif console.terminal:
            console.wait(once=True, moment=0)
        return True

    def _pass(self, seconds: float) -> None:
        self._hv.scheduler.pass_time(round(seconds * _NANOSECONDS))
        self._before = self._activity()


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
