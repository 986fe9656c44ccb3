"""The oracle: how the serial line is read, and the same programs on the real Xen."""

import json
from pathlib import Path

import pytest

from guests.runner.collect import collect
from guests.runner.report import Outcome, as_json, junit, plain_table, summary
from guests.runner.result import COWBIRD, XEN, DomainResult, Result
from guests.runner.run_xen import (
    Oracle,
    OracleMissing,
    Serial,
    command_line,
    find_oracle,
    run_program,
)
from guests.runner.verdict import Check, Verdict
from tests.guests import runner_programs
from tests.guests.test_runner_cli import cowbird
from tests.needs import missing, need

BOOT = "(XEN) Xen version 4.17\n(XEN) Freed 656kB init memory\n"


def serial(text: str) -> Serial:
    made = Serial()
    made.write(text.encode())
    made.close()
    return made


def verdict(text: str, timed_out: bool = False, after: bool = False) -> str:
    return serial(text).judge(timed_out, after)[0].verdict.value


def test_serial_line_is_taken_apart() -> None:
    text = (
        BOOT + "1..1\nok (XEN) d0v0 something\n1 a\n(XEN) Hardware Dom0 halted: halting machine\n"
    )
    made = serial("ok 9 before the guest\n" + text)
    assert made.console.shown() == "1..1\nok 1 a\n"
    assert verdict(text) == "PASS"
    assert made.messages[-1].startswith("(XEN) Hardware")


def test_endings_on_xen() -> None:
    good = BOOT + "1..1\nok 1 a\n"
    assert verdict(good + "(XEN) Hardware Dom0 crashed: rebooting machine\n") == "CRASH"
    assert verdict(good + "(XEN) Hardware Dom0 shutdown: rebooting machine\n") == "PASS"
    assert verdict(good + "(XEN) Hardware Dom0 shutdown: watchdog rebooting machine\n") == "CRASH"
    assert verdict(good, after=True) == "PASS"
    assert verdict(BOOT + "1..1\n", timed_out=True) == "TIMEOUT"
    assert verdict(BOOT + "1..1\n") == "ERROR"
    assert verdict("(XEN) Xen version\n", timed_out=True) == "ERROR"
    assert verdict("", timed_out=True) == "ERROR"
    crash = good + "(XEN) domain_crash called from traps.c:1\n(XEN) Hardware Dom0 crashed: x\n"
    assert verdict(crash) == "CRASH"
    assert "traps.c" in serial(crash).report()
    panic = "(XEN) Panic on CPU 0:\n(XEN) Could not construct domain 0\n"
    judged = serial(panic).judge(False, False)[0]
    assert (judged.verdict, judged.reason) == (Verdict.ERROR, "Xen: Panic on CPU 0:")


def test_command_line_reaches_the_guest_whole() -> None:
    arguments = command_line(Oracle(Path("xen"), Path("qemu"), ""), "guest", 16 << 20, "a=1,2", "m")
    assert arguments[arguments.index("-initrd") + 1] == "guest a=1,,2,m"
    assert "dom0_mem=16M,max:16M" in arguments[arguments.index("-append") + 1]


def test_no_oracle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OracleMissing, match="qemu-system-x86_64"):
        find_oracle()
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("COWBIRD_XEN", str(tmp_path / "nothing"))
    with pytest.raises(OracleMissing, match="no such file"):
        find_oracle()
    torn = tmp_path / "xen.gz"
    torn.write_bytes(b"\x1f\x8b\x08\x00garbage")
    monkeypatch.setenv("COWBIRD_XEN", str(torn))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(OracleMissing, match="cannot be unpacked"):
        find_oracle()


def test_a_qemu_that_fails_is_an_error(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "good/pass.asm")
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    fake.chmod(0o755)
    (program,) = collect([tmp_path])
    result = run_program(program, Oracle(tmp_path / "xen", fake, "xen"), 5)
    assert result.verdict is Verdict.ERROR
    assert "no such machine" in result.reason


# -- comparing ----------------------------------------------------------------------------------


def outcome(tmp_path: Path, manifest: str, ours: str, theirs: str) -> Outcome:
    path = tmp_path / "g" / "x.asm"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"; cowbird: {manifest}\n")
    (program,) = collect([tmp_path])

    def result(where: str, failed: str) -> Result:
        kind = Verdict.FAIL if failed else Verdict.PASS
        checks = (Check(failed or "a", kind),)
        domains = (DomainResult("1", kind, checks=checks, console="\x01ok\n"),)
        return Result("g/x", str(path), "g", where, kind, Verdict.PASS, domains=domains)

    return Outcome(program, (result(COWBIRD, ours), result(XEN, theirs)))


@pytest.mark.parametrize(
    ("manifest", "ours", "theirs", "comparison", "good"),
    [
        ("seed = 1", "", "", "agree", True),
        ("seed = 1", "", "b", "differ", False),
        ("difference = QEMU is wrong", "", "b", "documented", True),
        ("difference = QEMU is wrong", "b", "", "documented", False),
        ("expected = FAIL", "a", "b", "differ", False),
        ("seed = 1", "b", "b", "agree", False),
    ],
)
def test_comparison(
    tmp_path: Path, manifest: str, ours: str, theirs: str, comparison: str, good: bool
) -> None:
    made = outcome(tmp_path, manifest, ours, theirs)
    assert (made.comparison, made.good) == (comparison, good)
    assert bool(made.differences) == (comparison in ("differ", "documented"))
    assert as_json([made], 0, 1.0)["programs"][0]["comparison"] == comparison
    assert comparison in "\n".join(plain_table([made]))
    assert f"1 {comparison}" in summary([made], 1.0)
    xml = junit([made])
    assert b"\x01" not in xml
    assert (b"<failure" in xml) == (not good)


def oracle() -> Oracle:
    need("qemu-system-x86_64")
    try:
        return find_oracle()
    except OracleMissing as error:
        missing(str(error))
        raise


@pytest.mark.timeout(180)
def test_the_real_xen_agrees(tmp_path: Path) -> None:
    oracle()
    names = ("good/pass.asm", "good/two.asm", "good/crash.asm", "bad/fault.asm", "bad/fail.asm")
    runner_programs.write(tmp_path, *names)
    done = cowbird(tmp_path, "test", ".", "--on", "both", "--json", "r.json", "--timeout", "60")
    document = json.loads((tmp_path / "r.json").read_text())
    found = {p["id"]: p["comparison"] for p in document["programs"]}
    assert found == {
        "good/pass": "agree",
        "good/two": "not on xen",
        "good/crash": "agree",
        "bad/fault": "agree",
        "bad/fail": "agree",
    }, done.stdout
    crash = next(p for p in document["programs"] if p["id"] == "good/crash")["results"][1]
    assert crash["verdict"] == "CRASH"
    assert crash["domains"][0]["report"]
    assert (tmp_path / ".cowbird/bad/fail/xen/xen.txt").is_file()


def test_module_memory_and_command_line_are_the_same_there(tmp_path: Path) -> None:
    there = oracle()
    (tmp_path / "data.bin").write_bytes(b"cowbird!" * 512)
    (tmp_path / "x.asm").write_text(
        """\
; cowbird: module = data.bin
; cowbird: cmdline = a,b c=3
; cowbird: memory = 16M
.include "lib/kernel.inc"
.text
main:
    ktap_plan 3
    mov  r12, [rip + start_info]
    param rbx, "c", 0
    sub  rbx, 3
    ktap_result rbx, "command line"
    mov  rbx, [r12 + SI_nr_pages]
    sub  rbx, 4096
    ktap_result rbx, "memory"
    mov  rax, [r12 + SI_mod_start]
    mov  rbx, [rax]
    mov  rax, 0x2164726962776f63
    sub  rbx, rax
    ktap_result rbx, "module"
    ret
"""
    )
    (program,) = collect([tmp_path])
    result = run_program(program, there, 60)
    assert result.verdict is Verdict.PASS, result.domains
