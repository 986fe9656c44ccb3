"""``cowbird replay``: a recorded run again, under the debugger, or checked to its end."""

from typing import Final

import click

from hypervisor.cli import logs
from hypervisor.cli.exitcodes import EXIT_CODES
from hypervisor.cli.frontend import FrontEnd, front_end_options
from hypervisor.cli.screen import Screen
from hypervisor.cli.session import Session
from hypervisor.cli.sources import Source
from hypervisor.cli.tui.relay import Relay
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


@click.command(short_help="Replay a run that the debugger's 'save' recorded.", epilog=_EPILOG)
@click.argument("file")
@click.option("--check", is_flag=True, help="Run to the end, and compare with what was recorded.")
@front_end_options
@click.option("--log", multiple=True, metavar="LEVEL|NAME", help="As for 'boot'.")
def replay(file: str, check: bool, front: FrontEnd, log: tuple[str, ...]) -> int:
    """Replay the run recorded in FILE (the debugger's 'save'), instruction for instruction.

    Everything that came to the guests from outside comes again where it came then; images, modules
    and what was read from disks are in FILE. The debugger stands at the beginning, and can go
    anywhere.
    """
    logs.set_up(log)
    lines = front.check()
    if check and front.wanted:
        raise click.BadParameter("nobody debugs a run that is checked", param_hint="--check")
    screen = Relay()
    recording = load(file)
    session = begin(recording, screen, show=not check)
    debugger = Debugger(session.hv, record=not check)
    debugger.follow(recording)
    if recording.other_sources:
        screen.tell(
            "cowbird: recorded by other sources of this version: the run may come out differently"
        )
    if check:
        code = _check(file, debugger, recording, screen)
        click.get_current_context().exit(code)
    click.get_current_context().exit(front.attend(session, debugger, screen, lines))


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
