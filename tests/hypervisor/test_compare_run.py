"""Experiments: folders that are resumed or refused, workers that die, files that repeat."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypervisor.compare.cell import CELL_SCHEMA, Cell
from hypervisor.compare.errors import CompareError
from hypervisor.compare.experiment import Experiment, How
from hypervisor.compare.grid import make_grid
from hypervisor.compare.run import LOST, Result, run_local
from hypervisor.compare.store import Store
from hypervisor.compare.systems import SYSTEMS
from hypervisor.compare.workloads import WORKLOADS
from tests.needs import need_module

ROOT = Path(__file__).parents[2]
SMALL = {"systems": ["none", "share"], "workloads": ["zero", "boot"], "domains": 2, "pages": 16}


def made_up(cell: Cell) -> Result:
    """A result without a run: what the machinery around cells needs of one."""
    return {
        "schema": CELL_SCHEMA,
        "cell": cell.as_json(),
        "name": cell.name,
        "pages": 16,
        "outcome": "ok",
        "reason": "",
    }


def dies_in_boot(cell: Cell) -> Result:
    if cell.workload == "boot" and cell.system == "share":
        os.kill(os.getpid(), signal.SIGKILL)
    return made_up(cell)


def is_too_large(cell: Cell) -> Result:
    if cell.workload == "boot":
        bytearray(1 << 40)
    return made_up(cell)


def raises(cell: Cell) -> Result:
    raise RuntimeError("two\nlines")


# -- workers ------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_its_own_cell() -> None:
    cells = make_grid(SMALL).cells()
    found = {result["name"]: result for _, result in run_local(cells, 2, work=dies_in_boot)}
    assert len(found) == 4
    lost = [name for name, result in found.items() if result["outcome"] == LOST]
    assert lost == ["share-boot-2d-s1-p16"]
    assert found[lost[0]]["reason"] == "its process died: SIGKILL"


def test_a_worker_without_memory_costs_its_own_cell() -> None:
    cells = make_grid(SMALL).cells()
    found = [result for _, result in run_local(cells, 2, work=is_too_large)]
    reasons = {result["name"]: result["reason"] for result in found}
    assert reasons["none-boot-2d-s1-p16"] == reasons["share-boot-2d-s1-p16"] == "out of memory"
    assert reasons["none-zero-2d-s1-p16"] == ""


def test_a_bug_in_a_cell_is_one_line() -> None:
    ((_, result),) = run_local(make_grid(SMALL).cells()[:1], 1, work=raises)
    assert result["outcome"] == LOST
    assert result["reason"].startswith("a bug of cowbird: RuntimeError: two")


# -- folders ------------------------------------------------------------------------------------


def test_resume_runs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    cells = make_grid(SMALL).cells()
    first = Experiment(cells, Store(tmp_path / "x", cells, resume=False))
    first.run(How(2, work=dies_in_boot), lambda result: None)
    assert len(first.bad) == 1

    again = Experiment(cells, Store(tmp_path / "x", cells, resume=True))
    assert again.load() == 3
    told: list[str] = []
    again.run(How(2, work=made_up), lambda result: told.append(result["name"]))
    assert told == ["share-boot-2d-s1-p16"]
    assert again.bad == []
    assert [result["name"] for result in again.in_order] == [cell.name for cell in cells]


def test_a_cell_that_is_not_whole_runs_again(tmp_path: Path) -> None:
    cells = make_grid(SMALL).cells()
    first = Experiment(cells, Store(tmp_path / "x", cells, resume=False))
    first.run(How(2, work=made_up), lambda result: None)
    broken = tmp_path / "x" / "cells" / f"{cells[0].name}.json"
    broken.write_text(broken.read_text()[:40])
    other = tmp_path / "x" / "cells" / f"{cells[1].name}.json"
    other.write_text(json.dumps(made_up(cells[2])))
    again = Experiment(cells, Store(tmp_path / "x", cells, resume=True))
    assert again.load() == 2


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    cells = make_grid(SMALL).cells()
    Store(tmp_path / "x", cells, resume=False)
    store = Store(tmp_path / "x", cells, resume=False)  # nothing in it is lost
    store.keep(cells[0], made_up(cells[0]))
    with pytest.raises(CompareError, match="holds this experiment already, with 1 finished"):
        Store(tmp_path / "x", cells, resume=False)
    Store(tmp_path / "x", cells, resume=True)
    with pytest.raises(CompareError, match="holds another experiment"):
        Store(tmp_path / "x", cells[:1], resume=True)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear diary")
    with pytest.raises(CompareError, match="is not empty, and holds no experiment"):
        Store(tmp_path / "full", cells, resume=True)
    with pytest.raises(CompareError, match="is no folder"):
        Store(tmp_path / "full" / "letter.txt", cells, resume=False)

    about = tmp_path / "x" / "experiment.json"
    said = json.loads(about.read_text())
    about.write_text(json.dumps({**said, "fingerprint": "0"}))
    with pytest.raises(CompareError, match="of another version of cowbird, or over"):
        Store(tmp_path / "x", cells, resume=True)
    about.write_text("{}")
    with pytest.raises(CompareError, match="is of another version"):
        Store(tmp_path / "x", cells, resume=True)
    about.write_text("[")
    with pytest.raises(CompareError, match="cannot be read"):
        Store(tmp_path / "x", cells, resume=True)


def test_lost_cells_are_in_every_table_and_break_none(tmp_path: Path) -> None:
    cells = make_grid(SMALL).cells()
    experiment = Experiment(cells, Store(tmp_path / "x", cells, resume=False))
    experiment.run(How(2, work=raises), lambda result: None)
    experiment.write()
    assert len(experiment.bad) == 4
    assert "share (lost)" in (tmp_path / "x" / "tables.txt").read_text()
    assert "a bug of cowbird" in (tmp_path / "x" / "report.html").read_text()
    assert (tmp_path / "x" / "cells.csv").read_text().count(",lost,") == 4


# -- the command --------------------------------------------------------------------------------


def cowbird(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hypervisor", "compare", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


OPTIONS = ("--systems=none,share,oracle", "--workloads=zero,boot", "--domains=2", "--pages=16")


def test_the_same_grid_gives_the_same_bytes(tmp_path: Path) -> None:
    need_module("matplotlib")
    for name, more in (("one", ("-j", "2")), ("two", ("-j", "1"))):
        done = cowbird(*OPTIONS, "--no-leak", "--out", name, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    two = {path.name: path.read_bytes() for path in (tmp_path / "two").rglob("*.*")}
    assert {"report.html", "cells.csv", "results.json", "tables.txt", "achieved.svg"} <= set(one)
    assert one == two
    assert len([name for name in one if name.endswith("-2d-s1-p16.json")]) == 6
    page = one["report.html"].decode()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # needs nothing else


def test_an_interrupted_run_keeps_its_cells(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hypervisor", "compare", "--no-leak", "--out", "x", "-j", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    cells = tmp_path / "x" / "cells"
    until = time.monotonic() + 120
    while not list(cells.glob("*.json")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    kept = len(list(cells.glob("*.json")))
    assert f"cowbird: {kept} of " in errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors


def test_help_names_every_system_and_workload(tmp_path: Path) -> None:
    text = cowbird("--help", cwd=tmp_path).stdout
    lines = " ".join(text.split())
    assert f"Systems: {', '.join(SYSTEMS)} Workloads:" in lines
    assert f"Workloads: {', '.join(WORKLOADS)} What" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--systems=nome",), "systems: no system 'nome'"),
        (("--workloads=zero,,",), "workloads: no workload ''"),
        (("--domains=two",), "'two' is no list of numbers, as 1,2,4"),
        (("--domains=0",), "domains: 0; it must be from 1 to 64"),
        (("--sweep=none.toml",), "none.toml: No such file"),
        (("--sweep=a.toml", "--domains=2"), "domains is given by an option and by a.toml"),
        (("--sweep=b.toml",), "b.toml: unknown key 'domians'"),
        (("--leak", "--systems=none"), "--leak runs cells of its own"),
        (("--out=a.toml",), "a.toml is no folder"),
        (("--worker-memory=1",), "--worker-memory"),
    ],
)
def test_bad_usage_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "a.toml").write_text("domains = 2\n")
    (tmp_path / "b.toml").write_text("domians = 2\n")
    done = cowbird(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "cowbird-compare").exists()


@pytest.mark.parametrize(
    "address", ["nothing://here", "here", "tcp://127.0.0.1:1", "tcp://127.0.0.1:99999", ""]
)
def test_no_scheduler_is_one_line(tmp_path: Path, address: str) -> None:
    need_module("distributed")
    done = cowbird(*OPTIONS, "--no-leak", "--scheduler", address, cwd=tmp_path)
    assert done.returncode == 2
    assert "dask scheduler" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_dask_scheduler_gives_the_same_files(tmp_path: Path) -> None:
    need_module("distributed")
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        assert cluster.stdin is not None
        address = cluster.stdout.readline().strip()
        options = ("--systems=none,share", "--workloads=zero", "--domains=2", "--pages=16")
        there = cowbird(*options, "--no-leak", "--out=x", "--scheduler", address, cwd=tmp_path)
        cluster.stdin.close()  # ends it
        cluster.wait(60)
    assert there.returncode == 0, there.stderr
    here = cowbird(*options, "--no-leak", "--out=y", cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    for name in ("cells.csv", "results.json", "tables.txt"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
