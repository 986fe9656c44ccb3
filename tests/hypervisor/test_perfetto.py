"""``cowbird trace --perfetto``: valid trace events that say what the trace says."""

import json
from collections import Counter, defaultdict

import pytest
from click.testing import CliRunner

from hypervisor.cli import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perfetto")
    trace, out = folder / "t.jsonl", folder / "out.json"
    for arguments in (
        ["boot", "fork", "churn", "--domains", "2", "--trace", str(trace)],
        ["trace", "--perfetto", str(trace), "-o", str(out)],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    lines = [json.loads(one) for one in trace.read_text().splitlines()][1:]
    return trace, lines, json.loads(out.read_text())


def test_every_event_is_a_valid_trace_event(run):
    needed = {"B": set(), "E": set(), "i": {"s", "args"}, "C": {"args"}, "M": {"args"}}
    stack = defaultdict(list)
    last = defaultdict(int)
    for event in run[2]["traceEvents"]:
        assert {"ph", "name", "pid", "tid", "ts"} | needed[event["ph"]] <= event.keys()
        assert all(type(event[key]) is int for key in ("pid", "tid", "ts"))
        track = event["pid"], event["tid"]
        if event["ph"] != "M":
            assert event["ts"] >= last[track]
            last[track] = event["ts"]
        if event["ph"] == "B":
            stack[track].append(event)
        elif event["ph"] == "E":
            stack[track].pop()
        elif event["ph"] == "C":
            assert all(type(value) is int for value in event["args"].values())
        elif event["ph"] == "i":
            assert event["s"] == "t"
    assert not any(stack.values())


def test_nothing_is_lost_and_counters_are_right(run):
    _, lines, out = run
    events = out["traceEvents"]
    counted = Counter(line["event"] for line in lines)
    shown = Counter(event["cat"] for event in events if event["ph"] == "i")
    for kind in counted.keys() - {"create", "destroy"}:
        assert shown[kind] == counted[kind]
    assert sum(event["ph"] == "B" for event in events) == counted["create"] == 4
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {0: "machine", 1: "d1 fork", 2: "d2 fork", 3: "d3 churn", 4: "d4 churn"}
    counter = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counter[event["pid"], event["name"]].append(*event["args"].values())
    saved, mapped, shared = [], 0, 0
    for line in lines:
        step = {"share": 1, "map_again": 1, "drop": -1}.get(line["event"])
        if step is None:
            continue
        mapped += step
        shared += line["event"] == "share" and line["status"] == 0
        shared -= line["event"] == "drop" and line["count"] == 0
        saved.append(mapped - shared)
    assert counter[0, "saved frames"] == saved
    assert max(saved) > 0
    assert counter[0, "shared frames"][-1] == 0
    assert all(counter[pid, "shared mappings"][-1] == 0 for pid in (1, 2, 3, 4))


def test_numbers_that_a_viewer_would_round_are_text(run):
    events = [event for event in run[2]["traceEvents"] if event["ph"] == "i"]
    shown = [e["args"]["rip"] for e in events if e["cat"] == "trap"]
    traced = [line["rip"] for line in run[1] if line["event"] == "trap"]
    assert shown == [f"{rip:#x}" if rip >= 1 << 53 else rip for rip in traced]
    assert any(isinstance(rip, str) for rip in shown)


def test_a_trace_cut_short_is_exported_as_far_as_it_goes(run, tmp_path):
    content = run[0].read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(content[: len(content) // 2])
    result = CliRunner().invoke(cli, ["trace", "--perfetto", str(cut), "-o", "-"])
    assert result.exit_code == 0
    out = json.loads(result.stdout)
    assert "incomplete" in out["otherData"]["cut"]
    phases = Counter(event["ph"] for event in out["traceEvents"])
    assert phases["B"] == phases["E"] == 4


def test_a_form_must_be_named(run, tmp_path):
    result = CliRunner().invoke(cli, ["trace", str(run[0]), "-o", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "--perfetto" in result.stderr
