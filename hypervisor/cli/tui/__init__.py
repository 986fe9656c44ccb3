"""The debugger on a whole terminal: ``cowbird debug --tui`` (optional extra ``tui``, Textual).

It owns no mechanism: what it shows are the prompt's views (``hypervisor.debug``), what it does are
the prompt's commands, run one at a time in a thread so that Ctrl-C can stop the guests. While one
runs nothing here looks at the machine.

``run`` is the way in. How it fails: without Textual, or without a terminal, one line before
anything starts. Keys are those of gdb's TUI; ``KEYS`` lists them, and F1 shows the list.
"""

import importlib.util
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from hypervisor.cli.tui.relay import Relay
    from hypervisor.debug.commands import Context

LEFT_FOR_PROMPT: Final = -1
"""What ``run`` answers when the person wants the prompt instead."""
KEYS: Final = """\
C-x o       the next pane            C-x 1   code and commands alone, or all panes
C-x 2       another set of panes     C-x s   single keys (below); q ends that
C-x a       leave for the prompt     C-l     draw everything anew
C-c         stop the guests          Tab     complete what is typed
Up, Down    the commands before      C-p, C-n   the same
PgUp, PgDn  scroll the pane          Enter   on a frame: show it; on an event: go there
in the map of frames: arrows choose, + and - zoom, m colours by owner, type or sharing, a shows
             also what was always free
single keys: c continue, s step, i stepi, n next, o nexti, f finish, r run, w where; with Shift
             (C S I N O F) the same backwards in time
layout asm | src | regs | paging | all     focus PANE     refresh"""


def available() -> bool:
    """True if Textual is installed."""
    return importlib.util.find_spec("textual") is not None


def require() -> None:
    """Make sure that Textual is there.

    Raises:
        click.ClickException: it is not; says how to get it.
    """
    if not available():
        raise click.ClickException("--tui needs Textual: pip install 'cowbird[tui]'")


def run(context: "Context", relay: "Relay") -> int | None:
    """Show the view until the person leaves it; ``LEFT_FOR_PROMPT``, or else what ``quit`` said.

    Raises:
        Exception: whatever failed in a command and is a bug.
    """
    from hypervisor.cli.tui.app import DebugView

    view = DebugView(context, relay)
    code = view.run()
    if view.failure is not None:
        raise view.failure
    return code
