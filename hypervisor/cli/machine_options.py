"""Options that ``boot`` and ``demo`` have in common: outputs, the audit, the log, the seed."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, TypeVar

import click

from emu.memory import MAX_BYTES
from hypervisor.cli import logs
from hypervisor.cli.options import Size, open_output, reason_of
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
        type=click.IntRange(0, 1 << 60),
        default=DEFAULT_LIMIT,
        show_default=True,
        help="Instructions of all guests together; 0 for no limit.",
    ),
    click.option(
        "--audit",
        is_flag=True,
        help="Check all invariants after every hypercall (slow), not only at the end.",
    ),
    click.option("--trace", metavar="FILE", help="Write what happens, as JSON lines."),
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
    _json: Callable[[str], object] | None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result where ``--json`` says."""
        if self._json is not None:
            self._json(encode(result))


def _writer(stream: IO[str], path: str) -> Callable[[str], object]:
    """``stream.write``, whose failure names the file."""

    def write(text: str) -> None:
        try:
            stream.write(text)
        except OSError as error:
            raise click.ClickException(f"cannot write {path}: {reason_of(error)}") from error

    return write


@contextmanager
def outputs(trace: str | None, json_: str | None) -> Iterator[Outputs]:
    """Open the files of ``--trace`` and ``--json`` before the run, close them after it.

    Raises:
        click.BadParameter: one cannot be written, or both are the same.
    """
    if trace is not None and trace == json_:
        raise click.BadParameter("--trace and --json name the same file", param_hint="--trace")
    opened: list[tuple[IO[str], str]] = []
    try:
        for path, option in ((trace, "--trace"), (json_, "--json")):
            if path is not None and path != "-":
                opened.append((open_output(path, option), path))
        writers = {path: _writer(stream, path) for stream, path in opened}
        writers["-"] = sys.stdout.write
        yield Outputs(
            None if trace is None else writers[trace], None if json_ is None else writers[json_]
        )
    finally:
        for stream, path in opened:
            try:
                stream.close()
            except OSError as error:
                raise click.ClickException(f"cannot write {path}: {reason_of(error)}") from error
