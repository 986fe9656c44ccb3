"""One small test program from command to verdict, here and on the real Xen under QEMU.

The same binary, in one run; wall-clock time of the whole command, Python's start included.
"""

import subprocess
import sys
import time
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.report import ROWS, Row
from tests.needs import need

PROGRAM = Path(__file__).parents[1] / "programs" / "mmu" / "write_protect.c"
ROUNDS = 3


def _seconds(where: str) -> float:
    command = [sys.executable, "-m", "hypervisor", "test", str(PROGRAM), "--on", where, "-j", "1"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def test_command_to_verdict(benchmark: BenchmarkFixture) -> None:
    for tool in ("gcc", "qemu-system-x86_64", "/boot/xen-4.17-amd64.gz"):
        need(tool)
    best = {"cowbird": float("inf"), "xen": float("inf")}
    _seconds("cowbird")  # compiles the program

    def both() -> None:
        for where, seconds in best.items():
            best[where] = min(seconds, _seconds(where))

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1)
    name = "one program, command to verdict (floor: the real Xen)"
    row = Row(name, best["xen"] * 1e6, best["cowbird"] * 1e6, "0.25 s")
    benchmark.extra_info.update(row.as_dict())
    ROWS.append(row)
