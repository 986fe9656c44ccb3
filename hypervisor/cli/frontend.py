"""What ``debug`` and ``replay`` do alike: scripts, then gdb, the terminal view, or the prompt.

``front_end_options`` adds the options to a command, which then gets one ``FrontEnd``. Commands of
``-x`` and ``-c`` are run first; the first that fails ends the session with exit code 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Final, TypeVar

import click

from emu.gdb.address import Address
from hypervisor.cli import signals, tui
from hypervisor.cli.exitcodes import EXIT_CODES
from hypervisor.cli.prompt import Prompt, is_terminal
from hypervisor.cli.screen import Screen
from hypervisor.cli.session import Session
from hypervisor.cli.tui.relay import Relay
from hypervisor.debug.commands import Context, execute
from hypervisor.debug.commands_shell import script_lines
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import StopReason
from hypervisor.debug.stop_text import reached
from hypervisor.results import Outcome

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_GDB: Final = "tcp:127.0.0.1:1234"
"""What ``-s`` means, as to QEMU."""
FAILED: Final = 1
"""Exit code if a command failed."""

_OPTIONS: Final = (
    click.option("-s", "gdb_default", is_flag=True, help=f"Short for --gdb {DEFAULT_GDB}."),
    click.option("-S", "frozen", is_flag=True, help="With gdb: do not run until it says so."),
    click.option(
        "--gdb",
        metavar="tcp:[HOST]:PORT|unix:PATH",
        help="Wait for gdb instead of showing a prompt; without -S the guests run meanwhile.",
    ),
    click.option(
        "-x",
        "scripts",
        multiple=True,
        metavar="FILE",
        help="Run the commands in FILE, then end. Repeatable; files come before -c.",
    ),
    click.option(
        "-c",
        "commands",
        multiple=True,
        metavar="COMMAND",
        help="Run COMMAND, then end. Repeatable.",
    ),
    click.option("-i", "interactive", is_flag=True, help="After -x and -c show the prompt."),
    click.option(
        "--tui",
        "whole_screen",
        is_flag=True,
        help="Show registers, code, page walk, frames and events all the time (needs the extra "
        "tui).",
    ),
)


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The options as they were given."""

    gdb_default: bool
    frozen: bool
    gdb: str | None
    scripts: tuple[str, ...]
    commands: tuple[str, ...]
    interactive: bool
    whole_screen: bool

    @property
    def wanted(self) -> bool:
        """True if any of them was given."""
        return any(getattr(self, item.name) for item in fields(self))

    @property
    def address(self) -> str | None:
        """Where gdb is to be served; None: it is not."""
        return DEFAULT_GDB if self.gdb_default else self.gdb

    def check(self) -> list[str]:
        """Refuse options that contradict each other; the commands of ``-x`` and ``-c``.

        Raises:
            click.ClickException: they do, or there is no terminal or no Textual for ``--tui``.
            DebugError: a file of commands cannot be read.
        """
        if self.gdb_default and self.gdb is not None:
            raise click.BadParameter("-s is --gdb already", param_hint="-s")
        if self.frozen and self.address is None:
            raise click.BadParameter(
                "nobody could start the guests: -S goes with gdb", param_hint="-S"
            )
        if self.whole_screen:
            if self.address is not None:
                raise click.BadParameter("gdb is the front end already", param_hint="--tui")
            tui.require()
            if not is_terminal():
                raise click.BadParameter("there is no terminal to show it on", param_hint="--tui")
        lines = [line for path in self.scripts for _, line in script_lines(path)]
        return lines + list(self.commands)

    def attend(self, session: Session, debugger: Debugger, screen: Relay, lines: list[str]) -> int:
        """Do what was asked for, and the session with the person; the exit code.

        The debugger was made for the session's machine just now; ``lines`` is what ``check`` gave.

        Raises:
            AddressError: gdb cannot be served there.
        """
        session.shows_reports = False  # the stop says it
        session.only_once(lambda: debugger.replaying)
        debugger.on_cut.append(lambda _position: session.forget_future())
        if session.tracer is not None:
            debugger.on_cut.append(session.tracer.cut)
        context = Context.of(debugger, screen.say)
        context.domain_id = next(iter(session.hv.domains), None)
        context.limit = session.limit
        prompt = Prompt(context, screen.say)
        try:
            with prompt.interruptible():
                if prompt.script(lines):
                    self._session(context, prompt, screen, scripted=bool(lines))
        except KeyboardInterrupt as error:
            session.interruption = error
        session.finished = _finished(debugger)
        if session.interruption is not None:
            screen.tell(f"cowbird: {signals.word(signals.exit_code(session.interruption))}")
            return signals.exit_code(session.interruption)
        return _exit_code(prompt, debugger)

    def _session(self, context: Context, prompt: Prompt, screen: Relay, *, scripted: bool) -> None:
        """What comes after the scripts."""
        if self.address is not None:
            _serve(context, self.address, self.frozen, screen)
        elif self.whole_screen:
            prompt.code = tui.run(context, screen)
            if prompt.code == tui.LEFT_FOR_PROMPT:
                prompt.code = None
                prompt.session()
        elif self.interactive or not scripted:
            if is_terminal():
                _greet(context, screen)
            prompt.session()


def front_end_options(function: F) -> F:
    """Add the options to a command, which gets them as its argument ``front``."""
    names = [item.name for item in fields(FrontEnd)]

    @wraps(function)
    def called(*args: Any, **given: Any) -> Any:
        front = FrontEnd(**{name: given.pop(name) for name in names})
        return function(*args, front=front, **given)

    command: Any = called
    for option in reversed(_OPTIONS):
        command = option(command)
    decorated: F = command
    return decorated


def _greet(context: Context, screen: Screen) -> None:
    domains = len(context.debugger.hv.domains)
    screen.say(f"{domains} domain{'s' if domains != 1 else ''}; 'help' lists the commands")
    stop = context.debugger.last_stop
    if stop is not None:
        screen.say(reached(context, stop))


def _finished(debugger: Debugger) -> bool:
    """True if nothing can run any more."""
    stop = debugger.last_stop
    if stop is not None and stop.reason is StopReason.FINISHED:
        return True
    return all(domain.exit is not None for domain in debugger.hv.domains.values())


def _exit_code(prompt: Prompt, debugger: Debugger) -> int:
    stop = debugger.last_stop
    if stop is not None and stop.reason is StopReason.ERROR:
        return EXIT_CODES[Outcome.HYPERVISOR_ERROR]
    if prompt.code is not None:
        return prompt.code
    return FAILED if prompt.failed else 0


def _serve(context: Context, address: str, frozen: bool, screen: Screen) -> None:
    """gdb instead of the prompt; ``monitor`` runs the prompt's commands on gdb's inferior."""
    from hypervisor.debug.gdbtarget import serve  # only who wants gdb loads its protocol

    def command(line: str, domain: int) -> str:
        context.domain_id = domain or None
        return execute(context, line)

    def connectable(where: Address) -> None:
        screen.tell(f"cowbird: in gdb: target extended-remote {where}")

    serve(context.debugger, command, address, frozen=frozen, announce=connectable)
