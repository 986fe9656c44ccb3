"""``cowbird replay``: a recorded run again, under the debugger, or checked to its end."""

from typing import Final

import click

from hypervisor.cli import logs
from hypervisor.cli.debug import _exit_code, _greet, _serve
from hypervisor.cli.exitcodes import EXIT_CODES
from hypervisor.cli.prompt import Prompt, is_terminal
from hypervisor.cli.screen import Screen
from hypervisor.cli.session import Session
from hypervisor.cli.sources import Source
from hypervisor.debug.commands import Context
from hypervisor.debug.commands_shell import script_lines
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import StopReason
from hypervisor.debug.recording import Recording, load
from hypervisor.results import Outcome

DIFFERS: Final = 1
"""Exit code of ``--check`` if the run does not end as it was recorded."""

_EPILOG: Final = """\b
Exit codes:
    0  the session ended; with --check: the run ended as it was recorded
    1  a command failed; with --check: the run ended otherwise
    2  bad usage, or a file that is no recording of this version, cut short or damaged
    5  the hypervisor failed: a bug of cowbird
    N  'quit N'"""


@click.command(epilog=_EPILOG)
@click.argument("file")
@click.option("--check", is_flag=True, help="Run to the end, and compare with what was recorded.")
@click.option(
    "--gdb", metavar="tcp:[HOST]:PORT|unix:PATH", help="Wait for gdb instead of showing a prompt."
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
@click.option("--log", multiple=True, metavar="LEVEL|NAME", help="As for 'boot'.")
def replay(
    file: str,
    check: bool,
    gdb: str | None,
    scripts: tuple[str, ...],
    commands: tuple[str, ...],
    interactive: bool,
    log: tuple[str, ...],
) -> int:
    """Replay the run recorded in FILE (the debugger's 'save'), instruction for instruction.

    Everything that came to the guests from outside comes again where it came then; images, modules
    and what was read from disks are in FILE. The debugger stands at the beginning, and can go
    anywhere.
    """
    logs.set_up(log)
    if check and (gdb is not None or scripts or commands or interactive):
        raise click.BadParameter("nobody debugs a run that is checked", param_hint="--check")
    screen = Screen()
    recording = load(file)
    lines = [line for path in scripts for _, line in script_lines(path)] + list(commands)
    session = begin(recording, screen, show=not check)
    debugger = Debugger(session.hv, record=not check)
    session.only_once(lambda: debugger.replaying)
    debugger.follow(recording)
    if recording.other_sources:
        screen.tell(
            "cowbird: recorded by other sources of this version: the run may come out differently"
        )
    if check:
        code = _check(file, debugger, recording, screen)
        click.get_current_context().exit(code)
    context = Context.of(debugger, screen.say)
    context.domain_id = next(iter(session.hv.domains), None)
    prompt = Prompt(context, screen.say)
    with prompt.interruptible():
        going_on = prompt.script(lines)
        if going_on and gdb is not None:
            _serve(context, gdb, True, screen)
        elif going_on and (interactive or not lines):
            if is_terminal():
                _greet(context, screen)
            prompt.session()
    click.get_current_context().exit(_exit_code(prompt, debugger))


def begin(recording: Recording, screen: Screen, *, show: bool = True) -> Session:
    """A session with the domains of a recording, about to start.

    Raises:
        DomainError, MachineError, OutOfFrames: they cannot be built here.
    """
    session = Session(recording.settings, 0, screen)
    for start in recording.domains:
        source = Source(start.name, start.name, start.image, None)
        domain = session.add(
            source, start.memory, module=start.module, cmdline=start.cmdline, show=show
        )
        for disk in start.disks:
            session.hv.disks.attach(domain, disk)
    session.shows_reports = False
    return session


def _check(file: str, debugger: Debugger, recording: Recording, screen: Screen) -> int:
    while True:
        stop = debugger.cont()
        if stop.reason is StopReason.ERROR:
            screen.tell(f"cowbird: {file}: {stop.text} (at position {stop.position:,})")
            return EXIT_CODES[Outcome.HYPERVISOR_ERROR]
        if stop.reason not in (StopReason.EXITED, StopReason.CRASHED):
            break
    if stop.position != recording.end or debugger.end_state() != recording.state:
        screen.tell(
            f"cowbird: {file}: the run does not repeat: at position {stop.position:,} of "
            f"{recording.end:,} the machine is not as it was recorded"
        )
        return DIFFERS
    screen.say(f"{file}: {stop.position:,} instructions, the end is as recorded")
    return 0
