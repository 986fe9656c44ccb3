"""The debugger's prompt: commands from files, from options, from a terminal or a pipe.

On a terminal there are a prompt, editing, history and completion (GNU readline), an empty line
repeats a step, and Ctrl-C stops the guests, not the debugger; at the prompt it drops the line. From
a pipe or file there is nothing but the answers: no prompt, no colour. What is wrong with a command
is one line on stderr, and the session lives on.

Answers go to stdout, where the guests' consoles go too.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from hypervisor.cli.signals import Terminated, handled_by
from hypervisor.debug.commands import Context, Quit, execute, find
from hypervisor.debug.completion import complete
from hypervisor.debug.model import DebugError

HISTORY_LINES: Final = 1000
_REPEATED: Final = frozenset(
    {
        "step", "stepi", "next", "nexti", "continue", "finish", "until", "reverse-step",
        "reverse-stepi", "reverse-next", "reverse-nexti", "reverse-continue", "reverse-finish",
    }
)  # fmt: skip
"""Commands that an empty line repeats as they were; ``x`` and ``list`` go on instead."""


class Prompt:
    """One session of commands about one debugger.

    ``failed``: some command had an error.
    """

    def __init__(self, context: Context, say: Callable[[str], None]) -> None:
        self.context = context
        self.failed = False
        self.code: int | None = None
        """What ``quit`` said."""
        self._say = say
        self._running = False
        self._asked = False
        """Ctrl-C came while the present command runs."""
        self._ending: Terminated | None = None
        """SIGTERM or SIGHUP came while a command ran."""
        self._last = ""

    # -- commands --------------------------------------------------------------------------

    def run(self, line: str) -> bool:
        """Run one command and show its answer; False if it failed.

        Raises:
            Quit: it was ``quit``.
        """
        self._asked = False
        self._running = True
        try:
            text = execute(self.context, line)
        except DebugError as error:
            self._complain(str(error))
            return False
        except KeyboardInterrupt as error:
            if isinstance(error, Terminated):
                raise
            self._complain("interrupted")
            return False
        finally:
            self._running = False
        if text:
            self._say(text)
        if self._ending is not None:
            raise self._ending
        return True

    def _complain(self, text: str) -> None:
        self.failed = True
        sys.stdout.flush()
        print(" ".join(text.split()) if "\n" in text else text, file=sys.stderr, flush=True)

    def script(self, commands: Iterable[str]) -> bool:
        """Run commands until one fails or quits; False ends the session."""
        try:
            return all(self.run(line) for line in commands)
        except Quit as end:
            self.code = end.code
            return False

    def session(self) -> None:
        """Read commands from stdin until its end or ``quit``."""
        lines = self._typed() if is_terminal() else _piped()
        try:
            for line in lines:
                self.run(line)
        except Quit as end:
            self.code = end.code

    # -- a terminal ------------------------------------------------------------------------

    def _typed(self) -> Iterator[str]:
        with _readline(self.context):
            while True:
                try:
                    line = input(self._text()).strip()
                except EOFError:
                    print()
                    return
                except KeyboardInterrupt as error:
                    if isinstance(error, Terminated):
                        raise
                    print()
                    continue
                line = line or self._last
                self._last = repeatable(line)
                if line:
                    yield line

    def _text(self) -> str:
        number = self.context.domain_id
        return "(cowbird) " if number is None else f"(cowbird d{number}) "

    # -- Ctrl-C ----------------------------------------------------------------------------

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In this block Ctrl-C stops running guests; a second one the command itself.

        SIGTERM and SIGHUP end the session as soon as the guests stand still: an exception in the
        middle of a trap would be lost.
        """

        def interrupt(number: int, _frame: FrameType | None) -> None:
            ending = None if number == signal.SIGINT else Terminated(number)
            if not self._running or self._asked:
                raise ending or KeyboardInterrupt
            self._asked = True
            self._ending = self._ending or ending
            self.context.debugger.interrupt()

        with handled_by(interrupt):
            yield


def repeatable(line: str) -> str:
    """What an empty line does after this one: the same, what goes on from it, or nothing."""
    try:
        item, arguments = find(line)
    except DebugError:
        return ""
    if item.name in _REPEATED:
        return line
    if item.name == "x":
        return f"x{arguments.split()[0]}" if arguments.startswith("/") else "x"
    return item.name if item.name == "list" else ""


def is_terminal() -> bool:
    """True if somebody types commands and sees the answers."""
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (ValueError, AttributeError):  # closed, or a test's
        return False


def _piped() -> Iterator[str]:
    """The lines of stdin; what is no text is replaced, and then no command."""
    while True:
        try:
            line = sys.stdin.readline()
        except (UnicodeDecodeError, ValueError):
            line = "\ufffd\n"
        if not line:
            return
        if line.strip():
            yield line.strip()


def history_file() -> Path | None:
    """Where the history is kept: ``COWBIRD_HISTORY``, or in the user's state; empty: nowhere."""
    given = os.environ.get("COWBIRD_HISTORY")
    if given is not None:
        return Path(given) if given else None
    state = os.environ.get("XDG_STATE_HOME")
    try:
        base = Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError:  # no home
        return None
    return base / "cowbird" / "history"


@contextmanager
def _readline(context: Context) -> Iterator[None]:
    """Editing, history and completion in this block, if this Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    found: list[str] = []

    def completer(_text: str, state: int) -> str | None:
        if state == 0:
            line = readline.get_line_buffer()[: readline.get_endidx()]
            found[:] = complete(context, line)
        if state >= len(found):
            return None
        return found[state] + (" " if len(found) == 1 else "")

    before = readline.get_completer()
    readline.set_completer(completer)
    readline.set_completer_delims(" ")
    readline.set_auto_history(True)
    readline.parse_and_bind("tab: complete")
    path = history_file()
    if path is not None and path.is_file():
        try:
            readline.read_history_file(path)
        except OSError:
            path = None  # not ours to read: not ours to write either
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        readline.set_completer(before)
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(path)
            except OSError:
                pass  # a history is a convenience
