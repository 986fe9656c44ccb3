"""``cowbird report``: a trace as a page for a browser."""

import sys

import click

from hypervisor.cli.outputs import OutputFile, refuse_inputs
from hypervisor.report import TraceReader, render


@click.command(short_help="Make one HTML page of TRACE.")
@click.argument("trace", metavar="TRACE")
@click.option("-o", "--output", required=True, metavar="FILE.html", help="The page to write.")
@click.option(
    "--first",
    type=click.IntRange(1),
    metavar="N",
    help="Show only the first N events.",
)
def report(trace: str, output: str, first: int | None) -> None:
    """Make one HTML page of TRACE: frames over time, shares, copies, savings, domains.

    TRACE is what 'cowbird boot GUEST... --trace TRACE --trace-frames' wrote; without --trace-frames
    the page knows of shared frames only. The page needs no network and no other file. A trace that
    was cut short is shown as far as it goes.
    """
    refuse_inputs([("-o", output)], [("TRACE", trace)])
    with TraceReader(trace) as reader:
        page = render(reader, first)
    if output == "-":
        sys.stdout.write(page)
    else:
        OutputFile(output, "-o").finish(page)
