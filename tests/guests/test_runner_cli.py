"""``cowbird test`` and ``new-guest`` on real guests: verdicts, exit codes, reports, evidence."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from guests.runner import report
from tests.guests import runner_programs
from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]


def cowbird(
    cwd: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "hypervisor", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All programs run once, with every output."""
    need("gcc")
    folder = tmp_path_factory.mktemp("programs")
    runner_programs.write(folder)
    done = cowbird(folder, "test", ".", "--json", "r.json", "--junit", "r.xml", "-j", "2")
    assert done.returncode == 1, done.stderr
    document = json.loads((folder / "r.json").read_text())
    return {"folder": folder, "done": done, "json": document}


def test_verdicts_and_reasons(everything: dict[str, Any]) -> None:
    programs = {p["id"]: p for p in everything["json"]["programs"]}
    found = {name: p["results"][0]["verdict"] for name, p in programs.items()}
    assert found == runner_programs.VERDICTS
    assert [n for n, p in programs.items() if p["good"]] == ["good/crash", "good/pass", "good/two"]
    reason = {name: p["results"][0]["reason"] for name, p in programs.items()}
    assert reason["bad/fail"] == "seven: failures: 7"
    assert "no verdict" in reason["bad/silent"]
    assert "PASS and FAIL" in reason["bad/twice"]
    assert "syntax.asm:5:" in reason["bad/syntax"]
    assert "bad/manifest.asm:1: unknown key 'color'" in reason["bad/manifest"]
    assert "missing.bin" in reason["bad/module"]
    assert "words.c:2:" in reason["bad/words"]
    assert "undeclared" in reason["bad/words"]
    assert reason["good/two"].startswith("domain 2: ")


def test_console_and_summary(everything: dict[str, Any]) -> None:
    out = everything["done"].stdout
    assert "13 programs, 10 not as expected" in out
    assert "good/pass" in out
    assert "Traceback" not in out + everything["done"].stderr
    flood = next(p for p in everything["json"]["programs"] if p["id"] == "bad/flood")
    assert len(flood["results"][0]["domains"][0]["console"]) < 1_000_000


def test_json_follows_its_schema(everything: dict[str, Any]) -> None:
    jsonschema.validate(everything["json"], report.schema())
    assert everything["json"]["exit_code"] == 1
    assert everything["json"]["summary"]["good"] == 3


def test_junit(everything: dict[str, Any]) -> None:
    root = ElementTree.parse(everything["folder"] / "r.xml").getroot()
    assert root.tag == "testsuites"
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"good", "bad"}
    for suite in suites.values():
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        for kind in ("failure", "error", "skipped"):
            attribute = {"failure": "failures", "error": "errors"}.get(kind, kind)
            assert suite.get(attribute) == str(len(suite.findall(f"testcase/{kind}")))
        for case in cases:
            assert case.get("name")
            assert float(case.get("time", "")) >= 0
    assert suites["good"].get("failures") == "0"
    assert suites["bad"].get("errors") == "5"


def test_evidence_and_the_command_that_repeats(everything: dict[str, Any]) -> None:
    folder, programs = everything["folder"], everything["json"]["programs"]
    fault = next(p for p in programs if p["id"] == "bad/fault")["results"][0]
    left = folder / fault["artifacts"]
    assert left == folder / ".cowbird/bad/fault"
    names = {path.name for path in left.iterdir()}
    assert names == {"trace.jsonl", "console-1.txt", "crash-1.txt", "fault.elf", "result.json"}
    assert "0x1234" in (left / "console-1.txt").read_text()
    assert "walk of 0x0000000000001234" in (left / "crash-1.txt").read_text()
    assert json.loads((left / "trace.jsonl").read_text().splitlines()[0])["trace"] == "cowbird"
    words = shlex.split(fault["repeat"])
    assert words[0] == "cowbird"
    again = cowbird(folder, *words[1:], "-v")
    assert again.returncode == 1
    assert "panic: vector 14" in again.stdout
    assert "walk of 0x0000000000001234" in again.stdout


def test_two_runs_are_equal(everything: dict[str, Any], tmp_path: Path) -> None:
    folder = everything["folder"]
    cowbird(folder, "test", ".", "--json", str(tmp_path / "r.json"), "-j", "1")
    second = json.loads((tmp_path / "r.json").read_text())

    def timeless(document: dict[str, Any]) -> dict[str, Any]:
        document = json.loads(json.dumps(document))
        document.pop("seconds")
        for program in document["programs"]:
            for result in program["results"]:
                result.pop("seconds")
        return document

    assert timeless(second) == timeless(everything["json"])


def test_exit_codes_and_selection(tmp_path: Path) -> None:
    folder = runner_programs.write(tmp_path, "good/pass.asm", "good/crash.asm", "bad/fail.asm")
    assert cowbird(folder, "test", "good").returncode == 0
    assert cowbird(folder, "test", ".", "-k", "good and not crash").returncode == 0
    stopped = cowbird(folder, "test", ".", "-x", "-j", "1")
    assert stopped.returncode == 1
    assert "2 programs were not run" in stopped.stdout
    listed = cowbird(folder, "test", ".", "--list")
    assert listed.stdout.splitlines()[0] == "bad/fail    fails"
    nothing = cowbird(folder, "test", ".", "-k", "nowhere")
    assert (nothing.returncode, nothing.stdout) == (5, "")
    for arguments in (["missing"], [".", "-k", "a and"], [], [".", "--limit", "x"], [""]):
        wrong = cowbird(folder, "test", *arguments)
        assert wrong.returncode == 2, arguments
        assert len(wrong.stderr.splitlines()) == 1
        assert wrong.stderr.startswith("cowbird: error: ")


def test_json_on_stdout_is_alone(tmp_path: Path) -> None:
    folder = runner_programs.write(tmp_path, "good/pass.asm")
    done = cowbird(folder, "test", ".", "--json", "-")
    jsonschema.validate(json.loads(done.stdout), report.schema())
    assert "1 program, all as expected" in done.stderr


def test_limit_from_the_command_line(tmp_path: Path) -> None:
    folder = runner_programs.write(tmp_path, "good/pass.asm")
    done = cowbird(folder, "test", "good/pass.asm", "--limit", "100")
    assert done.returncode == 1
    assert "TIMEOUT" in done.stdout
    assert "repeat with: cowbird test good/pass.asm --limit 100" in done.stdout


def test_without_a_toolchain(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "good/pass.asm")
    (tmp_path / "c.c").write_text("// cowbird: seed = 1\nint main(void) { return 0; }\n")
    env = {"PATH": str(tmp_path), "COWBIRD_CACHE": "", "COWBIRD_CC": ""}
    done = cowbird(tmp_path, "test", ".", "--json", "r.json", env=env)
    assert done.returncode == 1
    programs = {p["id"]: p for p in json.loads((tmp_path / "r.json").read_text())["programs"]}
    assert programs["good/pass"]["good"]
    c = next(p for name, p in programs.items() if name != "good/pass")["results"][0]
    assert c["verdict"] == "ERROR"
    assert "gcc" in c["reason"]


def test_without_qemu(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "good/pass.asm")
    done = cowbird(tmp_path, "test", ".", "--on", "xen", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("cowbird: error: --on xen needs qemu-system-x86_64")
    assert len(done.stderr.splitlines()) == 1
    again = cowbird(tmp_path, "test", ".", "--on=xen", "--json=r.json", env={"PATH": str(tmp_path)})
    assert again.returncode == 2
    assert not (tmp_path / "r.json").exists()


HANGS = """\
; cowbird: limit = 100G
.include "lib/kernel.inc"
.text
main:
    jmp main
"""


def test_a_timeout_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "hangs.asm").write_text(HANGS)
    done = cowbird(tmp_path, "test", ".", "--timeout", "0.7", "--json", "r.json")
    assert done.returncode == 1
    assert "stopped after 0.7 s of host time" in done.stdout
    assert "repeat with: cowbird test hangs.asm --timeout 0.7" in done.stdout
    (program,) = json.loads((tmp_path / "r.json").read_text())["programs"]
    assert program["results"][0]["seconds"] >= 0.7


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_an_interrupted_run(tmp_path: Path, number: int, code: int, word: str) -> None:
    runner_programs.write(tmp_path, "good/pass.asm")
    (tmp_path / "hangs.asm").write_text(HANGS)
    (tmp_path / "fails.asm").write_text("; cowbird: memory = nonsense\n")
    arguments = ("fails.asm", "good", "hangs.asm")
    process = subprocess.Popen(
        [sys.executable, "-m", "hypervisor", "test", *arguments, "-j", "1", "--json", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # the first has failed; the others are under way
    process.send_signal(number)
    try:
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "all as expected" not in out
    assert f"{word} after " in out
    assert " complete, 1 not as expected (" in out
    assert "not run to their end" in out or "not run to its end" in out
    assert errors == ""
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == code


def test_sources_without_a_manifest_are_counted(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "good/pass.asm")
    whole = (tmp_path / "good/pass.asm").read_text()
    bare = "\n".join(line for line in whole.splitlines() if "cowbird:" not in line)
    (tmp_path / "good/pass.asm").write_text(bare)
    (tmp_path / "good/x.c").write_text("int x;\n")
    done = cowbird(tmp_path, "test", ".")
    assert done.returncode == 5
    assert "2 sources have no 'cowbird:' manifest; naming a file runs it anyway" in done.stderr
    assert cowbird(tmp_path, "test", "good/pass.asm").returncode == 0
    (tmp_path / "empty").mkdir()
    assert cowbird(tmp_path, "test", "empty").stderr == "cowbird: no test programs in empty\n"


# -- new-guest ----------------------------------------------------------------------------------


def test_new_guest_passes_at_once(tmp_path: Path) -> None:
    made = cowbird(tmp_path, "new-guest", "mine", "--dir", "sub")
    assert made.returncode == 0
    assert "cowbird test sub/mine.asm" in made.stdout
    assert cowbird(tmp_path, "test", "sub").returncode == 0
    again = cowbird(tmp_path, "new-guest", "mine", "--dir", "sub", "--c")
    assert again.returncode == 2
    assert "already there" in again.stderr
    assert cowbird(tmp_path, "new-guest", "../up").returncode == 2
    assert cowbird(tmp_path, "new-guest", "x", "--dir", "sub/mine.asm").returncode == 2


def test_new_c_guest_passes_at_once(tmp_path: Path) -> None:
    need("gcc")
    made = cowbird(tmp_path, "new-guest", "mine", "--c")
    assert made.returncode == 0
    (line,) = [text for text in made.stdout.splitlines() if "gcc @" in text]
    command = line.partition(":")[2].strip()
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert cowbird(tmp_path, "boot", "mine.elf").returncode == 0
    done = cowbird(tmp_path, "test", "mine.c")
    assert done.returncode == 0, done.stdout
    assert "mine: what this program finds out" in done.stdout
