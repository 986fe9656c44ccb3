"""Options that ``boot`` and ``demo`` have in common: outputs, the audit, the log, the seed."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from emu.memory import MAX_BYTES
from hypervisor.cli import logs
from hypervisor.cli.options import Count, Size, count_text
from hypervisor.cli.outputs import OutputFile, close_all, open_all, refuse_inputs
from hypervisor.cli.session import DEFAULT_LIMIT
from hypervisor.results import encode
from hypervisor.settings import DEFAULT_MACHINE_MEMORY, DEFAULT_SLICE

_LEAST_MACHINE: Final = 1 << 20
_MAX_COUNT: Final = 1 << 40

F = TypeVar("F", bound=Callable[..., Any])

_SHARED: Final = (
    click.option(
        "--machine-memory",
        type=Size(_LEAST_MACHINE, MAX_BYTES),
        default=DEFAULT_MACHINE_MEMORY,
        metavar="SIZE",
        help="Memory of the machine.  [default: 256M]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, (1 << 64) - 1),
        default=0,
        show_default=True,
        help="Salts the hash of contents; also the guests' random numbers.",
    ),
    click.option(
        "--slice",
        "slice_",
        type=click.IntRange(1, _MAX_COUNT),
        default=DEFAULT_SLICE,
        show_default=True,
        help="Instructions that a domain runs before another has its turn.",
    ),
    click.option(
        "--limit",
        type=Count(zero=True),
        default=DEFAULT_LIMIT,
        metavar="N",
        help="Instructions of all guests together, as 10M; 0 for no limit.  "
        f"[default: {count_text(DEFAULT_LIMIT)}]",
    ),
    click.option(
        "--audit",
        is_flag=True,
        help="Check all invariants after every hypercall (slow), not only at the end.",
    ),
    click.option("--trace", metavar="FILE", help="Write what happens, as JSON lines."),
    click.option(
        "--trace-frames",
        is_flag=True,
        help="With --trace: also how frames and page tables change, which 'cowbird report' shows "
        "(about 0.1 ms an event).",
    ),
    click.option(
        "--json",
        "json_",
        metavar="FILE",
        help="Write the result (schema cowbird.run/1); '-' is stdout, for which all else "
        "goes to stderr.",
    ),
    click.option(
        "--log",
        multiple=True,
        metavar="LEVEL|NAME",
        help=f"Log to stderr: {', '.join(logs.LEVELS)}, or all of one of "
        f"{', '.join(logs.CONCERNS)}. Repeatable.",
    ),
)


def machine_options(function: F) -> F:
    """Add the common options to a command."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a run writes what machines read. ``trace`` writes a line, None if nobody wants it."""

    trace: Callable[[str], object] | None
    trace_frames: bool
    _json: Callable[[str], object] | None
    _files: tuple[OutputFile | None, ...]

    def begin(self) -> None:
        """The run begins: from now on the trace is there under its name, to be followed."""
        trace = self._files[0]
        if trace is not None:
            trace.publish()

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result where ``--json`` says."""
        if self._json is not None:
            self._json(encode(result))


@contextmanager
def outputs(
    trace: str | None,
    json_: str | None,
    inputs: Iterable[tuple[str, str | Path]] = (),
    *,
    trace_frames: bool = False,
) -> Iterator[Outputs]:
    """Open the files of ``--trace`` and ``--json`` before the run, close them after it.

    ``inputs``: (what it is, path) of the files that the command reads. A run that does not come to
    its end leaves no result, and a trace only after ``begin``.

    Raises:
        click.BadParameter: one cannot be written, is an input, or both are the same.
    """
    if trace_frames and trace is None:
        raise click.BadParameter("there is no --trace", param_hint="--trace-frames")
    if trace is not None and trace == json_:
        raise click.BadParameter("--trace and --json name the same file", param_hint="--trace")
    wanted = (("--trace", trace), ("--json", json_))
    refuse_inputs(wanted, inputs)
    files = open_all(wanted)
    try:
        for_trace, for_json = (
            None if path is None else sys.stdout.write if file is None else file.write
            for (_, path), file in zip(wanted, files, strict=True)
        )
        if files[1] is not None:
            for_json = files[1].finish
        yield Outputs(for_trace, trace_frames, for_json, tuple(files))
    finally:
        close_all(files)
