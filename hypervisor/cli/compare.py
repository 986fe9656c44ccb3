"""``cowbird compare``: the systems of the 2005 discussion, as guests, over the same contents.

All mechanism is in ``hypervisor.compare``, which is loaded when a run begins; this reads options,
shows progress, and prints.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hypervisor.cli.options import Size

if TYPE_CHECKING:
    from hypervisor.compare.cell import Cell
    from hypervisor.compare.experiment import Experiment, How
    from hypervisor.compare.run import Result

FAILED: Final = 1
AUDIT: Final = 5
_DEFAULT_OUT: Final = "cowbird-compare"
_LEAST_MEMORY: Final = 2 << 30
"""The engine alone asks for more than half of that."""
_MOST_TOLD: Final = 10

_EPILOG: Final = """\b
Systems:    none, reference, scanner, share, background, manager, pager, oracle
Workloads:  boot, fork, pagecache, zero, random, identical, similar, short, aslr,
            writeall
What they are: hypervisor/compare/README.md, and the report.

\b
Files in DIR:
  report.html   everything, in one page      tables.txt    all tables
  cells.csv     a line of numbers per cell   results.json  all that was measured
  *.svg         the figures                  cells/        finished cells, for --resume

\b
Exit codes:
    0  every guest of every cell verified its contents, and the audit is clean
    1  a guest reported failure, or a cell was lost (its process died)
    2  bad usage, an unknown name or value, or a folder that holds something else
    5  the audit found violations: a bug of cowbird
  130  interrupted by Ctrl-C; finished cells are kept, and --resume goes on
  143  ended by SIGTERM (129: by SIGHUP); the same
"""


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [word.strip() for word in value.split(",")]


def _numbers(_ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(word) for word in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers, as 1,2,4") from None


@click.command(
    short_help="Compare ways to share equal pages: savings, costs, traffic.", epilog=_EPILOG
)
@click.option("--systems", callback=_names, metavar="A,B...", help="Systems.  [default: all]")
@click.option("--workloads", callback=_names, metavar="A,B...", help="Workloads.  [default: all]")
@click.option("--domains", callback=_numbers, metavar="N,N...", help="Clients.  [default: 2,4,8]")
@click.option("--seeds", callback=_numbers, metavar="N,N...", help="Seeds.  [default: 1]")
@click.option(
    "--pages",
    callback=_numbers,
    metavar="N,N...",
    help="Pages of each client's workload.  [default: the workload's own]",
)
@click.option(
    "--sweep",
    type=click.Path(),
    metavar="FILE",
    help="A grid (.toml, .json or .yaml): systems, workloads, domains, seeds, pages, sleep (ns), "
    "scan_pages, groups, zero_only, opaque; each a value or a list.",
)
@click.option(
    "--out",
    type=click.Path(),
    default=_DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Folder for the results: a new one, or with --resume one of the same experiment.",
)
@click.option("--resume", is_flag=True, help="Go on with the experiment in DIR.")
@click.option(
    "--leak/--no-leak",
    default=None,
    help="Only show what a guest learns about others' pages, and what each setting against it "
    "costs; or leave that out.  [default: both, without --sweep]",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(0, 256),
    default=0,
    metavar="N",
    help="Cells at once, each in a process of its own.  [default: one per CPU]",
)
@click.option(
    "--worker-memory",
    type=Size(_LEAST_MEMORY, 1 << 40),
    metavar="SIZE",
    help="Address space that such a process may have, 2G at least.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run cells on the workers of this dask scheduler (tcp://HOST:PORT).",
)
@click.pass_context
def compare(
    ctx: click.Context,
    systems: list[str] | None,
    workloads: list[str] | None,
    domains: list[int] | None,
    seeds: list[int] | None,
    pages: list[int] | None,
    sweep: str | None,
    out: str,
    resume: bool,
    leak: bool | None,
    jobs: int,
    worker_memory: int | None,
    scheduler: str | None,
) -> int:
    """Compare ways to share equal pages: what each saves, at what cost, with how much traffic.

    Runs every system over every workload (see the report for what they are), checks every guest's
    contents, and writes tables, figures and one HTML report. The same grid gives the same files.
    """
    from hypervisor.compare.experiment import Experiment, How, all_cells
    from hypervisor.compare.grid import make_grid, read_grid
    from hypervisor.compare.store import Store

    given: dict[str, Any] = {
        "systems": systems,
        "workloads": workloads,
        "domains": domains,
        "seeds": seeds,
        "pages": pages,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if leak and (given.keys() - {"seeds"} or sweep is not None):
        raise click.UsageError("--leak runs cells of its own: it goes with --seeds alone")
    from_file = {} if sweep is None else read_grid(Path(sweep))
    twice = given.keys() & from_file.keys()
    if twice:
        raise click.UsageError(f"{min(twice)} is given by an option and by {sweep}")
    make_grid(from_file, sweep or "")
    grid = make_grid(from_file | given)
    spying = leak if leak is not None else sweep is None
    cells = [] if leak else grid.cells()
    seed = grid.seeds[0]
    store = Store(Path(out), all_cells(cells, seed if spying else None), resume=resume)
    experiment = Experiment(cells, store, spying, seed)
    loaded = experiment.load()
    _run(experiment, How(jobs, scheduler, worker_memory), loaded)
    experiment.spy()
    missing = experiment.write()
    _show(experiment)
    if missing:
        click.echo(f"cowbird: {missing}; the report is without figures", err=True)
    click.echo(f"{Path(out) / 'report.html'}: the whole report")
    ctx.exit(_verdict(experiment))


def _run(experiment: "Experiment", how: "How", loaded: int) -> None:
    """Run what is missing, with progress on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    cells: list[Cell] = experiment.cells
    if loaded:
        click.echo(f"cowbird: {loaded} of {len(cells)} cells were finished already", err=True)
    try:
        with Progress(
            *columns, console=screen, transient=True, disable=not screen.is_terminal
        ) as bar:
            task = bar.add_task("cells", total=len(cells), completed=loaded)

            def done(result: "Result") -> None:
                bar.update(task, advance=1, description=result["name"])

            experiment.run(how, done)
    except KeyboardInterrupt:
        kept = len(experiment.results)
        where = experiment.store.folder
        click.echo(
            f"cowbird: {kept} of {len(cells)} cells are kept in {where}; --resume goes on", err=True
        )
        raise


def _show(experiment: "Experiment") -> None:
    """The tables of the largest number of domains, and what they come to."""
    import sys

    from hypervisor.cli.screen import make_console
    from hypervisor.compare.experiment import LEAK
    from hypervisor.compare.leak import lines_of
    from hypervisor.compare.summary import means, winners
    from hypervisor.compare.tables import plain_table, tables, target_lines, winners_lines

    console = make_console(sys.stdout)
    rows = means(experiment.rows())
    most = max((row.place["domains"] for row in rows), default=0)
    shown = list(tables([row for row in rows if row.place["domains"] == most], brief=True))
    reached = experiment.targets()
    if reached:
        shown.append(plain_table("where pages stop changing", target_lines(reached)))
    if winners(rows):
        shown.append(plain_table("who wins", winners_lines(rows), 4))
    if experiment.findings:
        shown.append(plain_table(LEAK, lines_of(experiment.findings, brief=True)))
    for table in shown:
        console.print(table)
        console.print()


def _verdict(experiment: "Experiment") -> int:
    """Say what went wrong; the exit code."""
    bad = experiment.bad
    for result in bad[:_MOST_TOLD]:
        click.echo(f"cowbird: {result['name']}: {result['outcome']}: {result['reason']}", err=True)
    if len(bad) > _MOST_TOLD:
        click.echo(f"cowbird: and {len(bad) - _MOST_TOLD} more cells", err=True)
    if any(result["outcome"] == "lost" for result in bad):
        click.echo("cowbird: lost cells are run again by --resume", err=True)
    if any(result.get("audit") for result in bad):
        return AUDIT
    return FAILED if bad else 0
