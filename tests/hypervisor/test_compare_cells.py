"""Cells: every system over every workload is correct, and what is measured is what is there."""

import numpy as np
import pytest

from emu.units import MFN, PAGE_SIZE
from guests import library
from guests.runner.machine import boot
from hypervisor.compare import leak
from hypervisor.compare.cell import Cell, Experiment, run_cell
from hypervisor.compare.cost import EVENTS, L4_SWITCH, XEN_SWITCH, cycles
from hypervisor.compare.oracle import snapshot
from hypervisor.compare.summary import row_of, rows_of, targets
from hypervisor.compare.systems import SYSTEMS
from hypervisor.compare.workloads import WORKLOADS

LAB = library.DIRECTORY / "lab" / "lab.asm"


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_guest_verifies_its_contents_and_the_audit_is_clean(
    system: str, workload: str
) -> None:
    pages = max(96 if workload == "pagecache" else 24, WORKLOADS[workload].least_pages)
    result = run_cell(Cell(system, workload, 2, 3, pages))
    assert result["outcome"] == "ok", result
    assert result["audit"] == []
    assert result["counts"]["guest_checks"] > 0 or workload == "fork"
    stops = WORKLOADS[workload].stops_changing
    assert stops is None or stops in [phase["name"] for phase in result["phases"]]
    for sample in result["samples"]:
        assert 0 <= sample["saved"] <= sample["possible"] <= sample["pages"]


@pytest.mark.parametrize("workload", [w.name for w in WORKLOADS.values() if w.stops_changing])
def test_share_reaches_95_percent_where_pages_stop_changing(workload: str) -> None:
    (target,) = targets([row_of(run_cell(Cell("share", workload, 4)))])
    assert target.met, target


def test_the_same_cell_gives_the_same_result() -> None:
    cell = Cell("scanner", "boot", 2, 5, 24)
    assert run_cell(cell) == run_cell(cell)


def test_a_scanner_misses_what_lives_shortly() -> None:
    kept = {}
    for system in ("share", "scanner"):
        row = row_of(run_cell(Cell(system, "short", 2, sleep=5_000_000)))
        kept[system] = float(row.values["achieved"] or 0)
    assert kept["share"] > kept["scanner"] + 0.2


def test_the_worst_case_costs_and_is_shown() -> None:
    rows = rows_of(run_cell(Cell(s, "writeall", 2, pages=32)) for s in ("none", "share"))
    none, share = rows
    assert none.values["copies"] == 0
    assert share.values["copies"] == 2 * 32 * 3
    assert float(share.values["over_none"] or 0) > 0
    assert none.values["over_none"] == 0


# -- what is counted ------------------------------------------------------------------------------


def test_the_oracle_counts_what_a_count_by_hand_finds() -> None:
    experiment = Experiment(Cell("none", "identical", 3, 1, 24))
    hv = experiment.hv
    while not experiment.probe.phases:
        hv.run(5_000)  # until all pages are filled
    found = snapshot(hv, experiment.clients, (), experiment.probe.disk)
    frames = hv.frames
    seen = []
    for domain in experiment.clients:
        for table in frames.owned_by(domain.id).tolist():
            if frames.type[table] != 1 or not frames.flags[table] & 1:
                continue
            for entry in hv.machine.memory.array[table].tolist():
                mfn = (entry >> 12) & ((1 << 40) - 1)
                mine = entry & 1 and frames.owner[mfn] == domain.id and frames.refs[mfn] == 1
                if mine and (frames.type[mfn] == 6 or not frames.type_count[mfn]):
                    seen.append(mfn)
    contents = [hv.machine.memory.frame_bytes(MFN(mfn)) for mfn in seen]
    assert found.pages == len(seen)
    assert found.frames == len(set(seen))
    assert found.distinct == len(set(contents))
    assert found.zero_pages == contents.count(bytes(PAGE_SIZE))
    assert found.possible >= 2 * 24
    assert found.saved == 0


def test_the_disk_is_not_memory_of_the_workload() -> None:
    experiment = Experiment(Cell("none", "boot", 2, 1, 24))
    assert len(experiment.probe.disk) > 100
    owners = np.array(experiment.hv.frames.owner_column)[list(experiment.probe.disk)]
    assert set(owners.tolist()) == {1, 2}


def test_lives_of_shares_are_those_of_the_mappings() -> None:
    result = run_cell(Cell("share", "writeall", 2, 1, 32))
    lives = result["lives"]
    assert lives["ended"] == 2 * 32 * 3
    assert lives["alive"] > 2 * 32
    assert lives["tenth"] <= lives["median"] <= lives["ninetieth"] <= lives["longest"]


def test_the_cost_model_is_a_table_with_sources() -> None:
    assert all(event.source and event.cycles > 0 for event in EVENTS)
    counts = {"hypercalls": 2, "switches": 3}
    assert cycles(counts) == 2 * 222 + 3 * XEN_SWITCH.cycles
    assert cycles(counts, L4_SWITCH) == 2 * 222 + 3 * L4_SWITCH.cycles


def test_a_wrong_guest_is_told() -> None:
    result = run_cell(Cell("share", "short", 2, 1, 16))  # too few pages for its bursts
    assert result["outcome"] == "failed"
    assert "short needs 80 pages" in result["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("workload=boot policy=nope", "policy=: no such policy"),
        ("workload=nope policy=share", "workload=: no such workload"),
        ("workload=boot policy=share", "needs a boot module with a directory"),
        ("workload=short policy=share pages=0", "pages=0: nothing to do"),
        ("workload=writeall policy=share pages=100000", "too small for what was asked"),
    ],
)
def test_the_laboratory_says_what_it_cannot_do(words: str, message: str) -> None:
    run = boot(LAB, cmdline=words)
    assert message in run.console()
    assert run.report() == ""
    assert run.audit() == []


# -- the leak -------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", leak.MITIGATIONS, ids=lambda setting: setting.name)
def test_only_the_default_tells(setting: leak.Mitigation) -> None:
    success = leak.spy(setting, 1, 0)
    told = {"status", "frame", "next"} if setting.name == "default" else set()
    for way, rate in success.items():
        assert rate == 1.0 if way in told else 0.3 < rate < 0.7, (way, rate)


def test_settings_cost_savings() -> None:
    cells = [s.cell("identical", 1) for s in leak.MITIGATIONS]
    small = [
        Cell(
            c.system,
            c.workload,
            c.domains,
            c.seed,
            None,
            groups=c.groups,
            zero_only=c.zero_only,
            opaque=c.opaque,
        )
        for c in cells
    ]
    default, groups, zero, opaque = leak.find((run_cell(cell) for cell in small), 1)
    assert default.kept == {"identical": 1.0}
    assert 0.5 < groups.kept["identical"] < 0.8
    assert zero.kept["identical"] < 0.1
    assert opaque.kept["identical"] > 0.99
