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


def run_suite(programs: Sequence[TestProgram], options: Options) -> Iterator[Outcome]:
    """Run programs; yields each as soon as it is complete, so not in order.

    Raises:
        OracleMissing: the real Xen cannot be run here.
    """
    oracle = find_oracle() if XEN in options.where else None
    todo: list[tuple[int, str]] = []
    tasks: list[Task[Result]] = []
    results: dict[int, dict[str, Result]] = {}
    for number, program in enumerate(programs):
        results[number] = {}
        for where in options.where:
            if where == XEN and oracle is not None and (program.manifest.not_on_xen):
                # Nothing to run: no process is needed to say so.
                results[number][XEN] = run_there(program, oracle)
                continue
            todo.append((number, where))
            tasks.append(_task(program, where, options, oracle))

    def outcome(number: int) -> Outcome:
        found = results[number]
        return Outcome(programs[number], tuple(found[w] for w in options.where if w in found))

    for number in range(len(programs)):
        if len(results[number]) == len(options.where):
            yield outcome(number)
    finished = run_all(tasks, options.jobs or default_jobs())
    try:
        for index, result in finished:
            number, where = todo[index]
            results[number][where] = result
            if len(results[number]) == len(options.where):
                made = outcome(number)
                yield made
                if options.stop_at_first and not made.good:
                    return
    finally:
        finished.close()


def _task(
    program: TestProgram, where: str, options: Options, oracle: Oracle | None
) -> Task[Result]:
    if where == XEN and oracle is not None:
        timeout = options.timeout or DEFAULT_TIMEOUT
        work = partial(run_there, program, oracle, timeout, options.artifacts)
        bound = timeout + _MARGIN
    else:
        work = partial(run_here, program, options.limit, options.artifacts)
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
            repeat=repeat_command(program, where, options.limit, options.timeout),
        )

    return Task(work, lost, bound)
