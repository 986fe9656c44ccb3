"""The result of a run: it fits its schema, and it says what happened."""

import json
from collections import Counter
from itertools import pairwise

import jsonschema
import pytest
from click.testing import CliRunner

from guests import library
from hypervisor import results
from hypervisor.cli import cli
from hypervisor.cli.demo import Module, choose_modules, count_pages
from hypervisor.cli.screen import domain_table, histogram_text, make_console
from hypervisor.domain import Exit
from hypervisor.results import MACHINE_COUNTERS, Audited, DomainRecord, Outcome, judge
from tests.hypervisor import cli_guests

OK = Exit("poweroff")
CRASH = Exit("crash", 1, "d1 crashed: page fault")
WATCHDOG = Exit("watchdog", 1)
OF_THE_MACHINE_ALONE = {"crashes", "domains_created", "domains_destroyed", "freed", "switches"}


def record(exit_=OK, **more):
    return DomainRecord(1, "guest", "guest", None, 0, exit_, **more)


def judged(*records, violations=(), finished=True, **more):
    return judge(records, Audited(1, tuple(violations)), finished=finished, **more)


def result_of(tmp_path, *arguments):
    out = tmp_path / "result.json"
    run = CliRunner().invoke(cli, [*map(str, arguments), "--json", str(out)])
    assert out.exists(), run.output
    return run, json.loads(out.read_text())


@pytest.fixture(scope="module")
def schema():
    loaded = results.schema()
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


def test_each_outcome():
    assert judged(record()) is Outcome.OK
    assert judged(record(Exit("reboot"))) is Outcome.OK
    assert judged(record(not_ok_lines=1)) is Outcome.FAILED
    assert judged(record(planned=2, ok_lines=1)) is Outcome.FAILED
    assert judged(record(planned=2, ok_lines=2)) is Outcome.OK
    assert judged(record(WATCHDOG)) is Outcome.FAILED
    assert judged(record(CRASH)) is Outcome.CRASHED
    assert judged(record(None)) is Outcome.STUCK
    assert judged(record(None), finished=False) is Outcome.LIMIT
    assert judged(record(), violations=["x"]) is Outcome.HYPERVISOR_ERROR
    assert judged(record(), error=True) is Outcome.HYPERVISOR_ERROR
    assert judged(record(), interrupted=True) is Outcome.INTERRUPTED


def test_the_first_outcome_in_order_decides():
    everything = [record(CRASH), record(not_ok_lines=1), record(None)]
    more = {"finished": False, "violations": ["x"]}
    assert judged(*everything, interrupted=True, **more) is Outcome.INTERRUPTED
    assert judged(*everything, **more) is Outcome.HYPERVISOR_ERROR
    assert judged(*everything, finished=False) is Outcome.CRASHED
    assert judged(*everything[1:], finished=False) is Outcome.FAILED
    assert judged(*everything[2:], finished=False) is Outcome.LIMIT


def check_sums(result):
    """The machine's counters of sharing are the sums of its domains'."""
    counted = result["machine"]["counters"]
    names = [name for name in counted if name not in OF_THE_MACHINE_ALONE]
    assert set(MACHINE_COUNTERS) - OF_THE_MACHINE_ALONE <= set(names)
    of_domains = {n: sum(d["counters"].get(n, 0) for d in result["domains"]) for n in names}
    assert of_domains == {name: counted[name] for name in names}


@pytest.mark.parametrize("guest", [guest.name for guest in library.BUNDLED])
def test_every_bundled_guest_gives_a_valid_result(tmp_path, schema, guest):
    run, result = result_of(tmp_path, "boot", guest, "--domains", 2)
    jsonschema.validate(result, schema)
    assert run.exit_code == result["exit_code"] == 0, run.output
    machine = result["machine"]
    assert machine["peak"]["saved"] == machine["peak_saved"]
    counts = {int(count): frames for count, frames in machine["peak"]["histogram"].items()}
    assert sum(counts.values()) == machine["peak"]["shared"]
    assert sum(count * frames for count, frames in counts.items()) == machine["peak"]["mappings"]
    assert machine["shared"] == machine["mappings"] == 0, "all domains have ended"
    check_sums(result)


def test_other_endings_are_valid_too(tmp_path, schema):
    sources = {"loop": cli_guests.LOOP, "crash": cli_guests.CRASH, "block": cli_guests.BLOCKS}
    paths = [cli_guests.write(tmp_path, f"{name}.asm", text) for name, text in sources.items()]
    run, result = result_of(tmp_path, "boot", *paths, "--limit", 300_000)
    jsonschema.validate(result, schema)
    assert run.exit_code == result["exit_code"] == 3
    assert [d["exit"] for d in result["domains"]] == [None, {"reason": "crash", "code": 1}, None]
    assert result["domains"][1]["frames"] > 0, "as it was before its frames were given back"
    assert result["settings"]["limit"] == 300_000
    assert result["machine"]["instructions"] == 300_000


def test_settings_are_in_the_result(tmp_path, schema):
    options = ("--seed", 5, "--groups", 2, "--opaque", "--zero-only", "--machine-memory", "64M")
    _, result = result_of(tmp_path, "boot", "hello", "--domains", 2, "--slice", 999, *options)
    jsonschema.validate(result, schema)
    settings = result["settings"]
    assert result["seed"] == settings["seed"] == 5
    assert (settings["groups"], settings["slice"]) == (2, 999)
    assert settings["opaque"]
    assert settings["zero_only"]
    assert result["machine"]["frames"] == 64 << 8
    assert [d["group"] for d in result["domains"]] == [1, 0]


def test_refusals_are_counted_by_reason(tmp_path, schema):
    _, result = result_of(tmp_path, "boot", "share", "--domains", 2, "--zero-only")
    jsonschema.validate(result, schema)
    check_sums(result)
    refused = [domain["counters"]["refused:not_zero"] for domain in result["domains"]]
    assert refused == [domain["counters"]["share_refused"] for domain in result["domains"]]
    assert min(refused) > 0


def test_the_text_is_deterministic():
    assert results.encode({"b": 1, "a": {"d": 1, "c": 2}}) == results.encode(
        {"a": {"c": 2, "d": 1}, "b": 1}
    )


def test_tables_are_not_cut_in_pipes(tmp_path):
    path = tmp_path / "table"
    with path.open("w") as stream:
        many = Counter(dict.fromkeys(("entered", "merged", "share_refused", "cow_faults"), 10**12))
        rows = [record(CRASH, counters=many, frames=10**12) for _ in range(3)]
        make_console(stream).print(domain_table(rows))
    text = path.read_text()
    assert "…" not in text
    assert text.count("1,000,000,000,000") == 15


def test_many_domains_are_put_together(tmp_path):
    path = tmp_path / "table"
    with path.open("w") as stream:
        make_console(stream).print(domain_table([record(frames=2) for _ in range(1000)]))
    text = path.read_text()
    assert "2,000" in text
    assert len(text.splitlines()) < 10


def test_histogram_in_short():
    assert histogram_text({}) == "none"
    assert histogram_text({2: 3, 1: 4}) == "1: 4  2: 3"
    assert histogram_text(dict.fromkeys(range(1, 20), 1), most=2).endswith("3 or more: 17")


# -- the demo ----------------------------------------------------------------------------------


def test_the_count_is_of_contents():
    assert count_pages([b"a", b"b", b"a"]) == (3, 2)
    assert Module(("x",), b"a" * 4096 + b"b" * 4096).pages() == [b"a" * 4096, b"b" * 4096]


def test_modules_overlap_and_differ(tmp_path):
    for number in range(60):
        (tmp_path / f"f{number:02}.py").write_bytes(b"%d" % number * 3000)
    modules = choose_modules(tmp_path, 8)
    assert modules == choose_modules(tmp_path, 8)
    assert len({module.names for module in modules}) == 8
    for one, other in pairwise(modules):
        assert set(one.names) & set(other.names)
        assert len(one.data) % 4096 == 0


def test_the_demo(tmp_path, schema):
    run, result = result_of(tmp_path, "demo")
    assert run.exit_code == 0, run.output
    jsonschema.validate(result, schema)
    demo = result["demo"]
    assert demo["agree"]
    assert demo["saved"] == demo["possible"] > 0
    assert demo["verified"] == len(result["domains"]) == 8
    assert result["machine"]["counters"]["cow_faults"] > 0
    assert result["audit"]["checks"] == 2
    assert "agrees" in run.stdout
    assert "audit clean" in run.stdout


def test_a_demo_that_does_not_agree_fails(monkeypatch):
    monkeypatch.setattr("hypervisor.cli.demo.count_pages", lambda pages: (100, 3))
    run = CliRunner().invoke(cli, ["demo"])
    assert run.exit_code == 1
    assert "DISAGREES" in run.stdout


def test_the_demo_refuses_a_library_without_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    run = CliRunner().invoke(cli, ["demo"])
    assert run.exit_code == 2
    assert "0 Python files" in run.stderr
