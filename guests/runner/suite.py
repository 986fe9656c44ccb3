"""A whole test run: programs times hypervisors, spread over processes, put together again.

How it fails: ``OracleMissing`` before anything runs, if the real Xen is asked for and is not here.
What goes wrong with one program is in its result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from guests.runner.collect import TestProgram
from guests.runner.manifest import WIDTHS
from guests.runner.pool import Task, default_jobs, run_all
from guests.runner.report import Outcome
from guests.runner.result import COWBIRD, XEN, Result
from guests.runner.run_cowbird import repeat_command
from guests.runner.run_cowbird import run_program as run_here
from guests.runner.run_xen import DEFAULT_TIMEOUT, Oracle, find_oracle
from guests.runner.run_xen import run_program as run_there
from guests.runner.verdict import Verdict

WHERE: Final = {"cowbird": (COWBIRD,), "xen": (XEN,), "both": (COWBIRD, XEN)}
"""What ``--on`` may say, and on which hypervisors that runs programs."""
DEFAULT_HOST_TIMEOUT: Final = 300.0
"""Seconds of host time for one program here: a last resort, hardly ever reached."""
_MARGIN: Final = 5.0
"""Seconds beyond QEMU's own bound before its process is ended."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. ``limit``: instructions in place of the manifests'; ``timeout``: host seconds
    for one program (None: ``DEFAULT_HOST_TIMEOUT`` here, ``DEFAULT_TIMEOUT`` on the real Xen)."""

    where: tuple[str, ...] = (COWBIRD,)
    jobs: int = 0
    """Processes at once; 0 for one per CPU."""
    limit: int | None = None
    timeout: float | None = None
    artifacts: Path | None = None
    stop_at_first: bool = False
    environment: str | None = None
    """``pv64`` or ``pv32``: only that one here; None: all that a program names."""


def environments_of(program: TestProgram, options: Options) -> list[tuple[str, str]]:
    """(hypervisor, environment) of each result that a program is to have."""
    wanted: list[tuple[str, str]] = []
    if COWBIRD in options.where:
        named = [name for name in WIDTHS if name in program.manifest.environments]
        only = [options.environment] if options.environment else named
        # A program of the real Xen alone is skipped here, with that as the reason.
        wanted += [(COWBIRD, name) for name in only or ["pv64"]]
    if XEN in options.where:
        wanted.append((XEN, XEN))
    return wanted


def run_suite(programs: Sequence[TestProgram], options: Options) -> Iterator[Outcome]:
    """Run programs; yields each as soon as it is complete, so not in order.

    Raises:
        OracleMissing: the real Xen cannot be run here.
    """
    oracle = find_oracle() if XEN in options.where else None
    todo: list[tuple[int, str]] = []
    tasks: list[Task[Result]] = []
    wanted = [environments_of(program, options) for program in programs]
    results: dict[int, dict[str, Result]] = {}
    for number, program in enumerate(programs):
        results[number] = {}
        for where, environment in wanted[number]:
            if where == XEN and oracle is not None and (program.manifest.not_on_xen):
                # Nothing to run: no process is needed to say so.
                results[number][XEN] = run_there(program, oracle)
                continue
            todo.append((number, environment))
            tasks.append(_task(program, where, environment, options, oracle))

    def outcome(number: int) -> Outcome:
        found = results[number]
        return Outcome(programs[number], tuple(found[e] for _, e in wanted[number] if e in found))

    for number in range(len(programs)):
        if len(results[number]) == len(wanted[number]):
            yield outcome(number)
    finished = run_all(tasks, options.jobs or default_jobs())
    try:
        for index, result in finished:
            number, environment = todo[index]
            results[number][environment] = result
            if len(results[number]) == len(wanted[number]):
                made = outcome(number)
                yield made
                if options.stop_at_first and not made.good:
                    return
    finally:
        finished.close()


def _task(
    program: TestProgram, where: str, environment: str, options: Options, oracle: Oracle | None
) -> Task[Result]:
    if where == XEN and oracle is not None:
        timeout = options.timeout or DEFAULT_TIMEOUT
        work = partial(run_there, program, oracle, timeout, options.artifacts)
        bound = timeout + _MARGIN
    else:
        work = partial(run_here, program, options.limit, options.artifacts, environment)
        bound = options.timeout or DEFAULT_HOST_TIMEOUT

    def lost(verdict: Verdict, reason: str, seconds: float) -> Result:
        manifest = program.manifest
        return Result(
            program.id,
            str(program.path),
            program.group,
            where,
            verdict,
            manifest.expected,
            reason=reason,
            seconds=seconds,
            description=manifest.description,
            repeat=repeat_command(program, where, options.limit, options.timeout, environment),
            environment=environment,
        )

    return Task(work, lost, bound)
