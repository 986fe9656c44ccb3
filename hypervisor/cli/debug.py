"""``cowbird debug``: guests under a debugger, at a prompt, from a script, or for gdb."""

from typing import Final

import click

from emu.gdb.address import Address
from hypervisor.cli import logs, tui
from hypervisor.cli.exitcodes import EXIT_CODES
from hypervisor.cli.guest_options import GuestOptions, guest_options
from hypervisor.cli.machine_options import outputs
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

DEFAULT_GDB: Final = "tcp:127.0.0.1:1234"
"""What ``-s`` means, as to QEMU."""
FAILED: Final = 1
"""Exit code if a command failed."""

_EPILOG: Final = """\b
Exit codes:
    0  the session ended, by itself or by 'quit'
    1  a command failed (with -x or -c the rest is not run)
    2  bad usage, or a file or a memory size that cannot be used
    5  the hypervisor failed: a bug of cowbird
    N  'quit N'"""


@click.command(epilog=_EPILOG)
@click.option("-s", "gdb_default", is_flag=True, help=f"Short for --gdb {DEFAULT_GDB}.")
@click.option("-S", "stopped", is_flag=True, help="With gdb: do not run until it says so.")
@click.option(
    "--gdb",
    metavar="tcp:[HOST]:PORT|unix:PATH",
    help="Wait for gdb instead of showing a prompt; without -S the guests run meanwhile.",
)
@click.option(
    "-x",
    "scripts",
    multiple=True,
    metavar="FILE",
    help="Run the commands in FILE, then end. Repeatable; files come before -c.",
)
@click.option(
    "-c", "commands", multiple=True, metavar="COMMAND", help="Run COMMAND, then end. Repeatable."
)
@click.option("-i", "interactive", is_flag=True, help="After -x and -c show the prompt.")
@click.option(
    "--tui",
    "whole_screen",
    is_flag=True,
    help="Show registers, code, page walk, frames and events all the time (needs the extra tui).",
)
@guest_options
def debug(
    options: GuestOptions,
    gdb_default: bool,
    stopped: bool,
    gdb: str | None,
    scripts: tuple[str, ...],
    commands: tuple[str, ...],
    interactive: bool,
    whole_screen: bool,
) -> int:
    """Debug GUESTs: stop, look, step, and go back in time.

    Takes what 'boot' takes. Without gdb there is a prompt ('help' lists its commands, which are
    called as gdb's are); commands can come from a pipe, or with -x and -c. Ctrl-C stops the
    guests, not the debugger.
    """
    if gdb_default and gdb is not None:
        raise click.BadParameter("-s is --gdb already", param_hint="-s")
    if stopped and not gdb_default and gdb is None:
        raise click.BadParameter("nobody could start the guests: -S goes with gdb", param_hint="-S")
    address = DEFAULT_GDB if gdb_default else gdb
    if whole_screen:
        _check_tui(address)
    logs.set_up(options.log)
    screen = Relay(taken=options.output_taken)
    lines = [line for path in scripts for _, line in script_lines(path)] + list(commands)
    files = options.load()
    frames = options.trace_frames
    with outputs(options.trace, options.json_, files.inputs(), trace_frames=frames) as out:
        session = Session(options.settings(), options.limit, screen, out.trace, frames)
        files.add_to(session, interactive=False)
        out.begin()
        session.shows_reports = False  # the stop says it
        debugger = Debugger(session.hv)
        session.only_once(lambda: debugger.replaying)
        context = Context.of(debugger, screen.say)
        context.domain_id = next(iter(session.hv.domains), None)
        prompt = Prompt(context, screen.say)
        with prompt.interruptible():
            going_on = prompt.script(lines)
            if address is not None:
                if going_on:
                    _serve(context, address, stopped, screen)
            elif going_on and whole_screen:
                prompt.code = tui.run(context, screen)
                if prompt.code == tui.LEFT_FOR_PROMPT:
                    prompt.code = None
                    prompt.session()
            elif going_on and (interactive or not lines):
                if is_terminal():
                    _greet(context, screen)
                prompt.session()
        if options.json_ is not None:
            session.finished = _finished(debugger)
            out.write_result(session.document(session.finish()))
    click.get_current_context().exit(_exit_code(prompt, debugger))


def _check_tui(address: str | None) -> None:
    """Make sure that the terminal view can be had.

    Raises:
        click.ClickException: Textual is not there.
        click.BadParameter: there is no terminal, or gdb is to be the front end.
    """
    if address is not None:
        raise click.BadParameter("gdb is the front end already", param_hint="--tui")
    tui.require()
    if not is_terminal():
        raise click.BadParameter("there is no terminal to show it on", param_hint="--tui")


def _greet(context: Context, screen: Screen) -> None:
    domains = len(context.debugger.hv.domains)
    screen.say(
        f"{domains} domain{'s' if domains != 1 else ''}, about to start; 'help' lists the commands"
    )
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


def _serve(context: Context, address: str, stopped: bool, screen: Screen) -> None:
    """gdb instead of the prompt; ``monitor`` runs the prompt's commands on gdb's inferior."""
    from hypervisor.debug.gdbtarget import serve  # only who wants gdb loads its protocol

    def command(line: str, domain: int) -> str:
        context.domain_id = domain or None
        return execute(context, line)

    def connectable(where: Address) -> None:
        screen.tell(f"cowbird: in gdb: target remote {where}")

    serve(context.debugger, command, address, frozen=stopped, announce=connectable)
