"""The hot paths, each as a ratio to the bare floor of the same work in Unicorn.

Not part of the tests (timings are noisy): ``pytest tests/benchmarks -o python_files='bench_*.py'``.
Each row measures its floor and itself in one run, alternating, and keeps the best of several
rounds; only ratios are compared. pytest-benchmark's own columns show the whole row's time.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks import floors, guests
from tests.benchmarks.report import ROWS, Row

ROUNDS = 5


def compare(
    benchmark: BenchmarkFixture,
    name: str,
    n: int,
    floor: Callable[[int], float],
    real: Callable[[int], float],
    aim: str,
) -> None:
    """Run both ``ROUNDS`` times for ``n`` operations; report microseconds and the ratio."""
    best_floor = best_real = float("inf")

    def both() -> None:
        nonlocal best_floor, best_real
        best_floor = min(best_floor, floor(n) / n)
        best_real = min(best_real, real(n) / n)

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1)
    row = Row(name, best_floor * 1e6, best_real * 1e6, aim)
    benchmark.extra_info.update(row.as_dict())
    ROWS.append(row)


def test_null_hypercall(benchmark: BenchmarkFixture) -> None:
    compare(
        benchmark,
        "null hypercall",
        50_000,
        floors.null_hypercall,
        guests.null_hypercall,
        "within 3 floors",
    )


@pytest.mark.parametrize("kind", ["merged", "entered"])
def test_batched_share(benchmark: BenchmarkFixture, kind: str) -> None:
    def real(n: int) -> float:
        sharer = guests.Sharer(n, 128 << 20)
        distinct = 100 if kind == "merged" else n
        sharer.fill(np.arange(n, dtype=np.uint64) % np.uint64(distinct) + np.uint64(1))
        return sharer.share(0, n)

    name = f"batched share of a page, {kind}"
    compare(benchmark, name, 10_000, floors.batched_share, real, "4 us")


def test_copy_on_write(benchmark: BenchmarkFixture) -> None:
    name = "copy-on-write cycle"
    compare(benchmark, name, 500, floors.copy_on_write, guests.copy_on_write, "25 us")


@pytest.mark.parametrize("frames", [100_000, 1_000_000])
def test_growth_of_the_content_table(benchmark: BenchmarkFixture, frames: int) -> None:
    """A share at ``frames`` frames in the table against one at 10,000: flat if the ratio is 1."""
    small, probe = 10_000, 5_000
    times: dict[int, float] = {}

    def grow() -> None:
        sharer = guests.Sharer(frames + 2 * probe, (frames + 60_000) * 4096)
        count = frames + 2 * probe
        sharer.fill(np.arange(count, dtype=np.uint64) + np.uint64(1))
        sharer.share(0, small)
        times[small] = sharer.share(small, probe) / probe
        sharer.share(small + probe, frames - small - probe)
        times[frames] = sharer.share(frames, probe) / probe
        assert sharer.table_size() == frames + probe

    start = time.process_time()
    benchmark.pedantic(grow, rounds=1, iterations=1)
    assert time.process_time() > start
    name = f"share at {frames:,} frames in the table against 10,000"
    row = Row(name, times[small] * 1e6, times[frames] * 1e6, "flat: ratio 1")
    benchmark.extra_info.update(row.as_dict())
    ROWS.append(row)
