"""Prints the ratios after a benchmark run."""

import pytest

from tests.benchmarks.report import ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{'':58} {'floor us':>9} {'us':>9} {'ratio':>7}  aim")
    for row in ROWS:
        write(f"{row.name:58} {row.floor_us:9.2f} {row.real_us:9.2f} {row.ratio:7.2f}  {row.aim}")
