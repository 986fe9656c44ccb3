"""``cowbird debug``: guests under a debugger, at a prompt, from a script, or for gdb."""

from typing import Final

import click

from hypervisor.cli import logs
from hypervisor.cli.frontend import FrontEnd, front_end_options
from hypervisor.cli.guest_options import GuestOptions, guest_options
from hypervisor.cli.machine_options import outputs
from hypervisor.cli.session import Session
from hypervisor.cli.tui.relay import Relay
from hypervisor.debug.debugger import Debugger

_EPILOG: Final = """\b
Exit codes:
    0  the session ended, by itself or by 'quit'
    1  a command failed (with -x or -c the rest is not run)
    2  bad usage, or a file or a memory size that cannot be used
    5  the hypervisor failed: a bug of cowbird
    N  'quit N'"""


@click.command(epilog=_EPILOG)
@front_end_options
@guest_options
def debug(options: GuestOptions, front: FrontEnd) -> int:
    """Debug GUESTs: stop, look, step, and go back in time.

    Takes what 'boot' takes. Without gdb there is a prompt ('help' lists its commands, which are
    called as gdb's are); commands can come from a pipe, or with -x and -c. Ctrl-C stops the
    guests, not the debugger.
    """
    lines = front.check()
    logs.set_up(options.log)
    screen = Relay(taken=options.output_taken)
    files = options.load()
    frames = options.trace_frames
    with outputs(options.trace, options.json_, files.inputs(), trace_frames=frames) as out:
        session = Session(options.settings(), options.limit, screen, out.trace, frames)
        files.add_to(session, interactive=False)
        out.begin()
        code = front.attend(session, Debugger(session.hv), screen, lines)
        if options.json_ is not None:
            out.write_result(session.document(session.finish(explain=False)))
    click.get_current_context().exit(code)
