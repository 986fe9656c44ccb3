"""``cowbird boot``: guests side by side on one machine."""

import click

from emu.memory import MAX_BYTES
from hypervisor.blkback import MAX_DISKS
from hypervisor.builder import MIN_MEMORY
from hypervisor.cli import logs
from hypervisor.cli.exitcodes import help_text
from hypervisor.cli.interactive import single_keys
from hypervisor.cli.machine_options import machine_options, outputs
from hypervisor.cli.options import Size, read_module
from hypervisor.cli.screen import Screen, domain_table, histogram_text
from hypervisor.cli.session import Session
from hypervisor.cli.sources import find_source
from hypervisor.disk import DiskError, DiskImage, Mode
from hypervisor.hypervisor import MAX_DOMAINS
from hypervisor.settings import Settings


@click.command(epilog=help_text())
@click.argument("guest", nargs=-1, required=True, metavar="GUEST...")
@click.option(
    "--domains",
    type=click.IntRange(1, MAX_DOMAINS),
    default=1,
    show_default=True,
    help="How many domains of each GUEST.",
)
@click.option(
    "--memory",
    type=Size(MIN_MEMORY, MAX_BYTES),
    metavar="SIZE",
    help="Memory of each domain, its module included: a number of MiB, or with K, M, G.  "
    "[default: the guest's own, and as much more as its module needs]",
)
@click.option(
    "--module",
    multiple=True,
    metavar="FILE",
    help="Boot module. Of several, the first domain gets the first, and so on in turn.",
)
@click.option(
    "--disk",
    multiple=True,
    metavar="FILE[:ro|:rw]",
    help="A raw disk image: xvda, then xvdb and so on, in every domain. What a guest writes is "
    "kept in memory and lost, unless :rw (one domain only) has it go into FILE; :ro refuses it.",
)
@click.option("--cmdline", default="", metavar="TEXT", help="Command line of every guest.")
@click.option(
    "--groups",
    type=click.IntRange(1, MAX_DOMAINS),
    default=1,
    show_default=True,
    help="Sharing groups; domain n is in group n modulo this.",
)
@click.option("--zero-only", is_flag=True, help="Only pages full of zeros may be shared.")
@click.option("--opaque", is_flag=True, help="Sharing does not tell guests what others have.")
@machine_options
@click.pass_context
def boot(
    ctx: click.Context,
    guest: tuple[str, ...],
    domains: int,
    memory: int | None,
    module: tuple[str, ...],
    disk: tuple[str, ...],
    cmdline: str,
    groups: int,
    zero_only: bool,
    opaque: bool,
    machine_memory: int,
    seed: int,
    slice_: int,
    limit: int,
    audit: bool,
    trace: str | None,
    json_: str | None,
    log: tuple[str, ...],
) -> int:
    """Boot GUESTs on one machine until all have ended.

    GUEST is the name of a bundled guest ('cowbird guests'), a source (.asm, .s, .S, or .c, which
    needs gcc), or a Xen PV kernel (ELF or bzImage, plain or packed; 'cowbird info'). One domain's
    console is joined to the terminal; several are shown line by line, each behind its domain's
    name.
    """
    logs.set_up(log)
    screen = Screen(taken="-" in (trace, json_))
    sources = [find_source(given) for given in guest]
    modules = [read_module(path) for path in module]
    several = len(sources) * domains > 1
    disks = _disks(disk, several)
    settings = Settings(
        machine_memory=machine_memory,
        seed=seed,
        groups=groups,
        zero_only=zero_only,
        opaque=opaque,
        slice=slice_,
        audit=audit,
    )
    inputs = [("GUEST", source.path) for source in sources]
    inputs += [("--module", path) for path in module]
    inputs += [("--disk", path) for path, _ in disks]
    with outputs(trace, json_, inputs) as out:
        session = Session(settings, limit, screen, out.trace)
        number = 0
        for source in sources:
            for _ in range(domains):
                turn = number % len(modules) if modules else None
                session.add(
                    source,
                    memory,
                    module=None if turn is None else modules[turn],
                    module_name=None if turn is None else module[turn],
                    cmdline=cmdline,
                    disks=disks,
                    interactive=not several,
                )
                number += 1
        out.begin()
        if several:
            screen.start_progress()
            session.run()
        else:
            with single_keys():
                session.run()
        outcome = session.finish()
        if several:
            _report(session)
        out.write_result(session.document(outcome))
    ctx.exit(session.exit_code(outcome))


def _disks(given: tuple[str, ...], several: bool) -> list[tuple[str, Mode]]:
    """What ``--disk`` names, each looked at once so that a bad one is refused before anything runs.

    Raises:
        DiskError: one cannot be used so.
    """
    disks = [DiskImage.parse(text) for text in given]
    if len(disks) > MAX_DISKS:
        raise DiskError(f"{len(disks)} disks; a domain can have {MAX_DISKS}")
    for path, mode in disks:
        if mode is Mode.WRITABLE and several:
            raise DiskError(f"disk {path}: only one domain can have it with :rw")
        DiskImage(path, mode).close()
    return disks


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
    screen.say(
        f"{hv.machine.position:,} instructions; "
        f"{hv.sharing.cow_faults:,} copy-on-write faults; "
        f"audit: {found or 'no'} violation{'s' if found != 1 else ''} "
        f"in {checks:,} check{'s' if checks != 1 else ''}"
    )
