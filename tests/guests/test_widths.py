"""Guests of 32 bits through the runner, ``boot``, the pytest plugin and the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from guests.runner import scaffold
from guests.runner.collect import load_program
from guests.runner.machine import boot
from guests.runner.result import COWBIRD
from guests.runner.run_cowbird import run_program
from guests.runner.suite import Options, run_suite
from guests.runner.verdict import Verdict
from hypervisor.cli.app import cli
from tests.guests.test_runner_plugin import pytest_in

SOURCE = """\
; cowbird: environments = pv64, pv32, xen
.include "lib/kernel.inc"
.text
main:
    ktap_plan 1
    mov  ebx, WSIZE - WANTED
    ktap_result xbx, "width"
    ret
"""


def program(tmp_path: Path, text: str, name: str = "one.asm") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_each_environment_has_its_own_result(tmp_path: Path) -> None:
    path = program(tmp_path, SOURCE.replace("WANTED", "4"))
    (outcome,) = run_suite([load_program(path)], Options(jobs=2))
    assert [(r.where, r.environment, r.verdict) for r in outcome.results] == [
        (COWBIRD, "pv64", Verdict.FAIL),
        (COWBIRD, "pv32", Verdict.PASS),
    ]
    assert not outcome.good
    (outcome,) = run_suite([load_program(path)], Options(environment="pv32"))
    assert [r.environment for r in outcome.results] == ["pv32"]
    assert outcome.good
    assert outcome.results[0].repeat == f"cowbird test {path} --env pv32"


def test_an_environment_that_is_not_named_is_skipped(tmp_path: Path) -> None:
    path = program(tmp_path, SOURCE.replace("pv64, pv32, xen", "pv64"))
    result = run_program(load_program(path), environment="pv32")
    assert (result.verdict, result.reason) == (
        Verdict.SKIP,
        "its environments do not name pv32",
    )


def test_table_junit_and_json_tell_them_apart(tmp_path: Path) -> None:
    path = program(tmp_path, SOURCE.replace("WANTED", "4"))
    junit, json = tmp_path / "j.xml", tmp_path / "j.json"
    artifacts = tmp_path / "a"
    words = ["test", str(path), "--junit", str(junit), "--json", str(json)]
    done = CliRunner().invoke(cli, [*words, "--artifacts", str(artifacts)])
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert any(line.split()[:3] == ["program", "pv64", "pv32"] for line in lines)
    assert any(" FAIL " in line and " PASS " in line for line in lines)
    assert "pv64: 1 FAIL; pv32: 1 PASS" in done.output
    assert f'name="{tmp_path.name} on pv32"' in junit.read_text()
    assert '"environment": "pv32"' in json.read_text()
    assert list(artifacts.rglob("one.elf"))


def test_boot_takes_a_width() -> None:
    run = boot("hello", width=32)
    assert "x86_32p" in run.console(1)
    assert run.audit() == []
    run = boot(["share", "share"], width=[64, 32], cmdline="write=0")
    assert [domain.width for domain in run.domains] == [64, 32]
    assert run.verdict.verdict is Verdict.PASS
    run = boot('.include "lib/kernel.inc"\n.text\nmain: ktap_plan 0\n ret\n', width=32)
    ended = run.domain(1).exit
    assert ended is not None
    assert ended.reason == "poweroff"


@pytest.mark.parametrize("c", [False, True])
def test_a_new_guest_of_both_widths_passes(c: bool, tmp_path: Path) -> None:
    path = scaffold.new_guest("mine", tmp_path, c=c, width="both")
    for environment in ("pv64", "pv32"):
        result = run_program(load_program(path), environment=environment)
        assert result.verdict is Verdict.PASS, result.reason


def test_plugin_items(tmp_path: Path) -> None:
    program(tmp_path, SOURCE.replace("WANTED", "4"))
    done = pytest_in(tmp_path)
    assert "one.asm::one FAILED" in done.stdout
    assert "one.asm::one[pv32] PASSED" in done.stdout


def test_command_line(tmp_path: Path) -> None:
    source = program(tmp_path, SOURCE.replace("WANTED", "4"), "narrow.asm")
    image = tmp_path / "narrow.elf"
    run = CliRunner().invoke
    assert run(cli, ["boot", str(source), "--width", "32"]).exit_code == 0
    assert run(cli, ["boot", str(source)]).exit_code != 0
    assert run(cli, ["asm", str(source), "--bits", "32", "-o", str(image)]).exit_code == 0
    assert run(cli, ["boot", str(image)]).exit_code == 0
    assert load_program(image).manifest.environments == ("pv32",)
    assert run(cli, ["test", str(image)]).exit_code == 0
    assert "ELF32, 32-bit, 386" in run(cli, ["info", str(image)]).output
    assert "ELF32, 32-bit, 386" in run(cli, ["info", "hello32"]).output
    done = run(cli, ["boot", str(image), "--width", "64"])
    assert done.exit_code == 2
    assert "a 32-bit image; --width 64 is for what is built here" in done.output
    assert "x86_32p" in run(cli, ["boot", "hello", "--width", "32"]).output
