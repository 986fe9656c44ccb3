"""What the debugger costs: ratios of a run under it to the same run without.

Two bundled guests side by side, 14 million instructions and some 4,000 traps. Not part of the
tests: ``pytest tests/benchmarks -o python_files='bench_*.py'``.
"""

import random
import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import StopReason
from tests.benchmarks.bench_hot_paths import compare
from tests.benchmarks.report import ROWS, Row
from tests.guests.boot import Lab

GUESTS = ("churn", "storm")
THOUSANDS = 14_470
"""Instructions of the run, in thousands: rows are microseconds for a thousand."""


def lab() -> Lab:
    made = Lab()
    for name in GUESTS:
        made.boot(name)
    return made


def plain(_n: int) -> float:
    hv = lab().hv
    start = time.process_time()
    assert hv.run()
    return time.process_time() - start


def finish(debugger: Debugger) -> None:
    while debugger.cont().reason is not StopReason.FINISHED:
        pass


def stopless(_n: int) -> float:
    debugger = Debugger(lab().hv, record=False)
    start = time.process_time()
    finish(debugger)
    return time.process_time() - start


def elsewhere(_n: int) -> float:
    """A breakpoint in the first domain that it never reaches; the other one has none."""
    debugger = Debugger(lab().hv, record=False)
    debugger.add_breakpoint(1, 0x1234)
    start = time.process_time()
    finish(debugger)
    return time.process_time() - start


def watched(_n: int) -> float:
    debugger = Debugger(lab().hv, record=False)
    debugger.add_watchpoint(1, 0x1234, 8, "write")
    start = time.process_time()
    finish(debugger)
    return time.process_time() - start


def recorded(_n: int) -> float:
    hv = lab().hv
    start = time.process_time()
    finish(Debugger(hv))
    return time.process_time() - start


@pytest.mark.parametrize(
    ("name", "real", "aim"),
    [
        ("no stops, not recorded", stopless, "1"),
        ("a breakpoint in one of two domains", elsewhere, "1.2"),
        ("a watchpoint", watched, "none"),
        ("recorded", recorded, "below 2"),
    ],
)
def test_under_the_debugger(benchmark: BenchmarkFixture, name: str, real, aim: str) -> None:
    title = f"1,000 instructions under the debugger, {name}"
    compare(benchmark, title, THOUSANDS, plain, real, aim)


def test_going_back(benchmark: BenchmarkFixture) -> None:
    """The slowest of some reverse steps anywhere, and a search through the whole history."""
    debugger = Debugger(lab().hv)
    finish(debugger)
    base = plain(0)
    rng = random.Random(1)
    worst = 0.0

    def step() -> None:
        nonlocal worst
        debugger.goto(rng.randrange(debugger.end))
        domain = debugger.current
        assert domain is not None
        start = time.process_time()
        debugger.reverse_step(domain)
        worst = max(worst, time.process_time() - start)

    benchmark.pedantic(step, rounds=30, iterations=1)
    ROWS.append(
        Row("reverse-step, the slowest of 30, to the run", base * 1e6, worst * 1e6, "< 1 s")
    )
    debugger.goto(debugger.end - 1)
    debugger.add_breakpoint(1, 0x1234)
    start = time.process_time()
    assert debugger.reverse_cont().reason is StopReason.START_OF_HISTORY
    took = time.process_time() - start
    ROWS.append(Row("reverse-continue to the start, to the run", base * 1e6, took * 1e6, "few s"))
