"""``cowbird trace``: a trace in another form, for programs that others wrote."""

import sys
from collections.abc import Callable
from typing import Final

import click

from hypervisor.cli.outputs import OutputFile, refuse_inputs
from hypervisor.report import TraceReader, export

_CHUNK: Final = 1 << 20


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option(
    "--perfetto",
    is_flag=True,
    required=True,
    help="As trace events in JSON, for ui.perfetto.dev, chrome://tracing and others.",
)
@click.option("-o", "--output", required=True, metavar="FILE.json", help="The file to write.")
def trace(trace: str, perfetto: bool, output: str) -> None:
    """Write TRACE for a trace viewer (Perfetto).

    TRACE is what 'cowbird boot GUEST... --trace TRACE' wrote.
    Each domain is a process: its life, its shares, merges and copies, its hypercalls and traps;
    with counters of saved and shared frames. One microsecond there is one guest instruction.
    """
    refuse_inputs([("-o", output)], [("TRACE", trace)])
    with TraceReader(trace) as reader:
        if output == "-":
            _buffered(sys.stdout.write, reader)
            return
        file = OutputFile(output, "-o")
        try:
            _buffered(file.write, reader)
            file.publish()
        finally:
            file.close()


def _buffered(write: Callable[[str], object], reader: TraceReader) -> None:
    """Hand the export to ``write`` in large pieces."""
    pieces: list[str] = []
    size = 0

    def take(text: str) -> None:
        nonlocal size
        pieces.append(text)
        size += len(text)
        if size >= _CHUNK:
            write("".join(pieces))
            pieces.clear()
            size = 0

    export(reader, take)
    write("".join(pieces))
