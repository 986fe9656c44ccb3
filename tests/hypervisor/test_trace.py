"""The trace: it fits its schema, and its changes of frames add up to the frames that there are."""

import json
from importlib import resources

import jsonschema
import pytest
from click.testing import CliRunner

from emu.paging import PTE_A, PTE_D, PTE_P
from guests import library
from hypervisor.abi import DomId
from hypervisor.builder import build_domain
from hypervisor.cli import cli
from hypervisor.console import Console
from hypervisor.frames import FREE, VALIDATED
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from hypervisor.trace import TRACE_VERSION, Tracer
from tests.hypervisor.handmade import Handmade
from tests.hypervisor.tiny import HV


@pytest.fixture(scope="module")
def schema():
    text = resources.files("hypervisor").joinpath("schema", "trace-1.json").read_text("utf-8")
    loaded = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


class Reader:
    """Adds the lines of a trace up: an independent reading of what the schema says."""

    def __init__(self, header):
        self.frames = [(FREE, 0, 0, 0, 0)] * header["frames"]
        self.tables = {}

    def add(self, line):
        for first, count, *values in line.get("frames", ()):
            for mfn in range(first, first + count):
                self.frames[mfn] = tuple(values)
                if not values[2] & VALIDATED:
                    self.tables.pop(mfn, None)
        for table, first, count, entry, step in line.get("entries", ()):
            entries = self.tables.setdefault(table, [0] * 512)
            entries[first : first + count] = [entry + i * step for i in range(count)]

    def check(self, hv):
        f = hv.frames
        types = [t if n else 0 for t, n in zip(f.type, f.type_count, strict=True)]
        now = list(zip(f.owner, types, f.flags, f.type_count, f.refs, strict=True))
        assert self.frames == now
        for mfn, row in enumerate(now):
            if not row[2] & VALIDATED:
                assert mfn not in self.tables
                continue
            entries = hv.machine.memory.array[mfn].tolist()
            wanted = [e & ~(PTE_A | PTE_D) if e & PTE_P else 0 for e in entries]
            assert self.tables[mfn] == wanted


@pytest.mark.parametrize(("guest", "every"), [("share", 17), ("fork", 37), ("churn", 117)])
def test_changes_of_frames_add_up(guest, every):
    hv = Hypervisor(Settings(machine_memory=32 << 20, slice=20_000))
    lines = []
    Tracer(hv, lines.append, frames=True)
    reader = Reader(json.loads(lines[0]))
    checked = 0

    def check(kind, domain, details):
        nonlocal checked
        reader.add(json.loads(lines[-1]))
        if kind in ("hypercall", "create", "destroy") and len(lines) % every < 2:
            checked += 1
            reader.check(hv)

    hv.listen(check)
    image = parse_image(library.build_elf(library.find(guest)), guest)
    for _ in range(2):
        build_domain(hv, image, memory=8 << 20, name=guest, console=Console(lambda _: None))
    assert hv.run(200_000_000)
    assert checked > 20
    reader.check(hv)
    assert not reader.tables
    assert {row[0] for row in reader.frames} == {FREE, DomId.XEN}


def test_every_line_fits_the_schema(tmp_path, schema):
    seen = set()
    for more in ((), ("--trace-frames",)):
        out = tmp_path / "t.jsonl"
        arguments = ["boot", "fork", "churn", "--trace", str(out), *more]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        for seq, line in enumerate(lines[1:]):
            assert line["seq"] == seq
        for line in {line.get("event"): line for line in lines}.values():
            schema.validate(line)
            seen.add(line.get("event"))
        for line in lines[:200]:
            schema.validate(line)
        assert lines[0]["version"] == TRACE_VERSION
        assert any("frames" in line for line in lines[1:]) == bool(more)
    assert {"create", "share", "map_again", "drop", "cow_fault", "trap", "exit"} <= seen


def test_a_trace_tells_one_history_of_a_debugger_that_goes_back(tmp_path):
    trace = tmp_path / "t.jsonl"
    commands = ["continue", "goto 60000", "set $r15 = 5", "continue"]
    arguments = [word for line in ["catch cow", *commands] for word in ("-c", line)]
    result = CliRunner().invoke(
        cli, ["debug", "fork", *arguments, "--trace", str(trace), "--trace-frames"]
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    positions = [line["position"] for line in lines[1:]]
    assert positions == sorted(positions)
    assert positions[-1] > 60_000
    # The first history as a run without going back tells it, and nothing of the second.
    straight = tmp_path / "s.jsonl"
    arguments = ["-c", "catch cow", "-c", "continue", "--trace", str(straight), "--trace-frames"]
    assert CliRunner().invoke(cli, ["debug", "fork", *arguments]).exit_code == 0
    assert trace.read_bytes() == straight.read_bytes()
    made = CliRunner().invoke(cli, ["report", str(trace), "-o", str(tmp_path / "r.html")])
    assert made.exit_code == 0, made.output


def test_frames_without_a_trace_is_bad_usage():
    result = CliRunner().invoke(cli, ["boot", "hello", "--trace-frames"])
    assert result.exit_code == 2
    assert "--trace-frames" in result.stderr


def test_a_share_of_what_is_shared_already_is_an_event():
    guest = Handmade(Hypervisor(HV), 3)
    lines = []
    Tracer(guest.hv, lines.append)
    assert guest.share(1, 0x200) == 0
    assert guest.share(1, 0x400) == 1
    events = [json.loads(line) for line in lines[1:]]
    entered, again = (e for e in events if e["event"] in ("share", "again"))
    assert (entered["event"], again["event"]) == ("share", "again")
    assert again["mfn"] == entered["mfn"]
    assert (again["table"], again["index"]) == (entered["table"], entered["index"])
    assert guest.hv.paging.find_l1(guest.domain, guest.va(1))[:2] == (
        again["table"],
        again["index"],
    )
