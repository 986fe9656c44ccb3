"""How the process ends from outside: Ctrl-C, SIGTERM, and streams that are closed.

SIGTERM and SIGHUP do what Ctrl-C does (outputs are written), by ``Terminated``, which is a
``KeyboardInterrupt``: whoever handles one handles both, and only the exit code differs. While
modules are loaded a signal ends the process at once, in one line: an exception raised in the
middle of an import can surface anywhere.

A stream that was closed before the start is /dev/null: otherwise the first file that is opened
would take its place.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""Exit code: 128 + SIGINT, as a shell reports it; 128 + its number for each of the others."""
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: the reader of stdout or stderr has gone."""
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
ALL: Final = (signal.SIGINT, *ENDING)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or another signal of ``ENDING``."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


def set_up() -> None:
    """Prepare this process; called once, by ``main``."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, as those below are open by now.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # not with nohup
            signal.signal(number, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def exit_code(error: BaseException | None) -> int:
    """The exit code for an interruption."""
    return 128 + error.number if isinstance(error, Terminated) else INTERRUPTED


def word(code: int) -> str:
    """What happened, by the exit code; empty if nothing did."""
    if code == INTERRUPTED:
        return "interrupted"
    return "terminated" if code - 128 in ENDING else ""


def _line(code: int) -> bytes:
    return f"cowbird: {word(code)}\n".encode()


def leave(error: BaseException | None) -> NoReturn:
    """One line on stderr, and the end of the process by ``SystemExit``."""
    code = exit_code(error)
    try:
        sys.stderr.write(_line(code).decode())
        sys.stderr.flush()
    except OSError:
        drop_streams()
    sys.exit(code)


def drop_streams() -> None:
    """What cannot be written any more must not raise again when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, stream.fileno())
            os.close(sink)


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None],
    but_not: tuple[object, ...] = (signal.SIG_IGN,),
) -> Iterator[None]:
    """In this block ``handler`` is told of the signals of ``ALL``.

    Those whose handler is one of ``but_not`` stay as they are: ignored ones always do. Outside of
    the main thread nothing is changed, for nobody can press anything there.
    """
    before = {}
    try:
        for number in ALL:
            if signal.getsignal(number) not in but_not:
                before[number] = signal.signal(number, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """In this block, while modules are loaded and nothing is done yet, a signal ends the process.

    Signals that are ignored stay so; outside of the main thread nothing is changed.
    """

    def leave_now(number: int, _frame: FrameType | None) -> NoReturn:
        code = 128 + number
        os.write(2, _line(code))
        os._exit(code)

    with handled_by(leave_now, but_not=(signal.SIG_IGN, signal.SIG_DFL, None)):
        yield
