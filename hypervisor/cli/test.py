"""``cowbird test``: run guest-level test programs, here and on the real Xen.

All mechanism is in ``guests.runner``; this reads the options, shows progress, and prints. The
runner is loaded when a run begins, so that the other commands and ``--help`` do not pay for it.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypervisor.cli.options import Count
from hypervisor.cli.outputs import OutputFile, close_all, open_all, refuse_inputs
from hypervisor.cli.signals import exit_code, word

if TYPE_CHECKING:
    from rich.live import Live

    from guests.runner.collect import TestProgram
    from guests.runner.report import Outcome

FAILED: Final = 1
NOTHING: Final = 5
"""No program was collected, as pytest has it."""

_EPILOG: Final = """\b
Manifest, at the head of a source ('; cowbird: key = value', '// cowbird: ...'), or in NAME.toml:
  description = TEXT        expected = PASS | FAIL | SKIP | ERROR | CRASH | TIMEOUT
  environments = pv64, pv32, xen (default: pv64, xen)     difference = REASON
  oracle = yes | no: REASON (whether the real Xen can run it)
  domains = N | names       memory = 8M    machine-memory = 64M    limit = 20M
  cmdline = TEXT            module = FILE  (also for one domain: cmdline.NAME, kernel.NAME,
                                           width.NAME = 32 | 64)
  groups, zero-only, opaque, hash-bits, seed, slice: settings of the machine

\b
Exit codes:
    0  every program came to what its manifest expects (and Xen agrees, if asked)
    1  some did not
    2  bad usage, a path that is missing, or no QEMU or Xen for --on xen
    5  no program was found
  130  interrupted by Ctrl-C
  141  nobody reads the output any more
  143  ended by SIGTERM (129: by SIGHUP)
"""


@click.command(short_help="Run test programs and judge what they print.", epilog=_EPILOG)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(0, 256),
    default=0,
    metavar="N",
    help="Programs at once.  [default: one per CPU]",
)
@click.option(
    "-k", "expression", default="", metavar="EXPR", help="Only ids that fit: 'tlb and not nx'."
)
@click.option(
    "--on",
    "where",
    type=click.Choice(["cowbird", "xen", "both"]),
    default="cowbird",
    show_default=True,
    help="Where to run: here, on the real Xen under QEMU, or on both, compared.",
)
@click.option(
    "--env",
    "environment",
    type=click.Choice(["pv64", "pv32"]),
    help="Run here only as 64-bit or as 32-bit guests.  [default: as each program names them]",
)
@click.option(
    "--limit",
    type=Count(),
    metavar="N",
    help="Instructions, as 5M, in place of every manifest's limit.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86400),
    metavar="SECONDS",
    help="Host time for one program: the bound on Xen (30), a last resort here (300).",
)
@click.option("-x", "stop", is_flag=True, help="Stop at the first program not as expected.")
@click.option("--keep-going", "keep_going", is_flag=True, help="Run all, whatever fails (default).")
@click.option("-v", "--verbose", is_flag=True, help="Show consoles and crash reports of failures.")
@click.option("--list", "only_list", is_flag=True, help="Only list what would be run.")
@click.option("--junit", metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--json", "json_", metavar="FILE", help="Write the results (cowbird.test/1); '-' is stdout."
)
@click.option(
    "--artifacts",
    default=".cowbird",
    show_default=True,
    metavar="DIR",
    help="Folder for the evidence of failures: trace, consoles, crash reports, image.",
)
@click.pass_context
def test(
    ctx: click.Context,
    paths: tuple[str, ...],
    jobs: int,
    expression: str,
    where: str,
    environment: str | None,
    limit: int | None,
    timeout: float | None,
    stop: bool,
    keep_going: bool,
    verbose: bool,
    only_list: bool,
    junit: str | None,
    json_: str | None,
    artifacts: str,
) -> int:
    """Run the guest-level test programs in PATH... and judge what they print.

    A program is a source (.asm, .c) with a manifest at its head, or an image with one beside it;
    directories are searched. A file named by itself needs no manifest.
    """
    from guests.runner.collect import collect, select
    from guests.runner.suite import WHERE, Options, run_suite

    if stop and keep_going:
        raise click.UsageError("-x and --keep-going exclude each other")
    if "" in paths:
        raise click.BadParameter("an empty path", param_hint="PATH")
    found = collect([Path(path) for path in paths])
    programs = select(found, expression)
    if not programs:
        why = f" ({len(found)} do not fit -k {expression!r})" if found else _unlabelled(paths)
        click.echo(f"cowbird: no test programs in {', '.join(paths)}{why}", err=True)
        return NOTHING
    if only_list:
        width = max(len(program.id) for program in programs)
        for program in programs:
            about = program.error or program.manifest.description
            click.echo(f"{program.id:<{width}}  {about}".rstrip())
        return 0
    wanted = (("--junit", junit), ("--json", json_))
    refuse_inputs(wanted, _inputs(found))
    files = open_all(wanted)
    ctx.call_on_close(lambda: close_all(files))
    options = Options(
        WHERE[where], jobs, limit, timeout, Path(artifacts), stop, environment=environment
    )
    start = time.perf_counter()
    out = _Out(len(programs), verbose, to_stderr="-" in (junit, json_))
    outcomes: list[Outcome] = []
    interruption: KeyboardInterrupt | None = None
    try:
        for outcome in run_suite(programs, options):
            outcomes.append(outcome)
            out.done(outcome)
    except KeyboardInterrupt as error:
        interruption = error
    finally:
        out.close()
    place = {program.id: number for number, program in enumerate(programs)}
    outcomes.sort(key=lambda outcome: place[outcome.program.id])
    seconds = time.perf_counter() - start
    if interruption is not None:
        code = exit_code(interruption)
    else:
        code = 0 if all(o.good for o in outcomes) else FAILED
    out.finish(outcomes, seconds, len(programs) - len(outcomes), code)
    from guests.runner import report

    if junit is not None:
        _write(files[0], report.junit(outcomes).decode("utf-8"))
    if json_ is not None:
        _write(files[1], report.encode(report.as_json(outcomes, code, seconds)))
    return code


def _unlabelled(paths: Sequence[str]) -> str:
    """What is there instead of programs."""
    from guests.runner.collect import count_unlabelled

    number = count_unlabelled([Path(path) for path in paths])
    if not number:
        return ""
    have = "source has" if number == 1 else "sources have"
    return f": {number} {have} no 'cowbird:' manifest; naming a file runs it anyway"


def _inputs(programs: "Sequence[TestProgram]") -> "list[tuple[str, Path]]":
    """(what it is, path) of the files that programs are made of."""
    from guests.runner.manifest import find_sidecar

    found = []
    for program in programs:
        found.append(("PATH", program.path))
        sidecar = None if program.is_source else find_sidecar(program.path)
        if sidecar is not None:
            found.append(("manifest", sidecar))
        manifest = program.manifest
        names = [("module", manifest.module)]
        for spec in manifest.domains:
            names += [("module", spec.module), ("kernel", spec.kernel)]
        found += [(what, program.path.parent / name) for what, name in names if name is not None]
    return found


def _write(file: OutputFile | None, text: str) -> None:
    if file is not None:
        file.finish(text)
        return
    sys.stdout.write(text)
    sys.stdout.flush()


class _Out:
    """What a person sees. rich is loaded only where the output is a terminal."""

    def __init__(self, total: int, verbose: bool, to_stderr: bool) -> None:
        self._total = total
        self._verbose = verbose
        self._err = to_stderr
        self._done = self._bad = 0
        stream = sys.stderr if to_stderr else sys.stdout
        self._terminal = stream.isatty()
        self._live: Live | None = None
        if self._terminal:
            from rich import live

            from hypervisor.cli.screen import make_console

            self._console = make_console(stream)
            if total > 1:
                self._live = live.Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
                self._show()

    def _show(self) -> None:
        if self._live is not None:
            from rich.text import Text

            bad = f", {self._bad} not as expected" if self._bad else ""
            text = f"{self._done} of {self._total} programs{bad}"
            self._live.update(Text(text, style="dim"), refresh=True)

    def say(self, text: str) -> None:
        """Print lines above the progress."""
        if self._terminal:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            click.echo(text, err=self._err)

    def done(self, outcome: "Outcome") -> None:
        """A program is complete: count it, and tell of it if it is not as expected."""
        from guests.runner.report import what
        from guests.runner.result import evidence

        self._done += 1
        if not outcome.good:
            self._bad += 1
            told = False
            for result in outcome.results:
                if result.good and outcome.comparison != "differ":
                    continue
                told = True
                self.say(evidence(result, full=self._verbose))
            if outcome.comparison == "differ" or not told:
                self.say(f"{outcome.program.id}: {what(outcome)}")
            self.say("")
        self._show()

    def close(self) -> None:
        """Take the progress line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def finish(self, outcomes: "list[Outcome]", seconds: float, left: int, code: int) -> None:
        """The table and the summary; ``left`` programs were not run to their end."""
        from guests.runner.report import plain_table, summary, table

        if not outcomes:
            pass
        elif self._terminal:
            self._console.print(table(outcomes))
        else:
            for line in plain_table(outcomes):
                self.say(line)
        ended = word(code)
        if left:
            done = " to their end" if ended else ""
            self.say(f"{left} program{'s were' if left != 1 else ' was'} not run{done}")
        self.say(summary(outcomes, seconds, ended))
