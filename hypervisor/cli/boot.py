"""``cowbird boot``: guests side by side on one machine."""

import click

from hypervisor.cli import logs
from hypervisor.cli.exitcodes import help_text
from hypervisor.cli.guest_options import GuestOptions, guest_options
from hypervisor.cli.interactive import single_keys
from hypervisor.cli.machine_options import outputs
from hypervisor.cli.screen import Screen, domain_table, histogram_text
from hypervisor.cli.session import Session


@click.command(epilog=help_text())
@guest_options
def boot(options: GuestOptions) -> int:
    """Boot GUESTs on one machine until all have ended.

    GUEST is the name of a bundled guest ('cowbird guests'), a source (.asm, .s, .S, or .c, which
    needs gcc), or a Xen PV kernel (ELF or bzImage, plain or packed; 'cowbird info'). One domain's
    console is joined to the terminal; several are shown line by line, each behind its domain's
    name.
    """
    logs.set_up(options.log)
    screen = Screen(taken=options.output_taken)
    files = options.load()
    frames = options.trace_frames
    with outputs(options.trace, options.json_, files.inputs(), trace_frames=frames) as out:
        session = Session(options.settings(), options.limit, screen, out.trace, frames)
        files.add_to(session, interactive=True)
        out.begin()
        if options.several:
            screen.start_progress()
            session.run()
        else:
            with single_keys():
                session.run()
        outcome = session.finish()
        if options.several:
            _report(session)
        out.write_result(session.document(outcome))
    click.get_current_context().exit(session.exit_code(outcome))


def _report(session: Session) -> None:
    """The domains at their end, and the machine, for a person."""
    screen, hv = session.screen, session.hv
    screen.table(domain_table(session.records()))
    peak = session.recorder.peak
    if peak.saved:
        screen.say(
            f"most saved: {peak.saved:,} of {peak.used + peak.saved:,} frames "
            f"(frames by sharing count: {histogram_text(peak.histogram)})"
        )
    checks = session.audited.checks
    found = len(session.audited.violations)
    copies = hv.sharing.cow_faults
    screen.say(
        f"{hv.machine.position:,} instructions; "
        f"{copies:,} copy-on-write fault{'s' if copies != 1 else ''}; "
        f"audit: {found or 'no'} violation{'s' if found != 1 else ''} "
        f"in {checks:,} check{'s' if checks != 1 else ''}"
    )
