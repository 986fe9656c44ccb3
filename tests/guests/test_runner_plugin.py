"""The pytest plugin, in a pytest of its own: items, failures, the fixture, no cost elsewhere."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from tests.guests import runner_programs

ROOT = Path(__file__).resolve().parents[2]


def pytest_in(
    folder: Path, *arguments: str, cache: bool = False
) -> subprocess.CompletedProcess[str]:
    installed = importlib.metadata.entry_points(group="pytest11", name="cowbird")
    plugin = [] if installed else ["-p", "guests.pytest_plugin"]
    without = [] if cache else ["-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, *without, "-v", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_items_pass_fail_and_show_evidence(tmp_path: Path) -> None:
    names = ("good/pass.asm", "good/crash.asm", "bad/fault.asm", "bad/manifest.asm")
    runner_programs.write(tmp_path, *names)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.asm").write_text("; cowbird: seed = 1\n")
    (tmp_path / "plain.c").write_text("int x;\n")
    done = pytest_in(tmp_path)
    out = done.stdout
    assert "2 failed, 2 passed" in out
    assert "good/pass.asm::pass PASSED" in out
    assert "bad/fault.asm::fault FAILED" in out
    assert "panic: vector 14" in out
    assert "crash report" in out
    assert "walk of 0x0000000000001234" in out
    assert "repeat with: cowbird test" in out
    assert "manifest.asm:1: unknown key 'color'" in out
    assert "Traceback" not in out


def test_evidence_goes_to_the_cache_of_pytest(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "bad/fault.asm")
    done = pytest_in(tmp_path, cache=True)
    assert "evidence in " in done.stdout
    left = tmp_path / ".pytest_cache/d/cowbird/bad/fault"
    assert (left / "trace.jsonl").is_file()
    assert not (tmp_path / ".cowbird").exists()


def test_what_cannot_be_booted_points_at_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "def test_x(boot):\n    boot('helo')\n\ndef test_y(boot):\n    boot('hello', memory=5)\n"
    )
    done = pytest_in(tmp_path)
    out = done.stdout
    assert "2 failed" in out
    assert "helo: no such file, and no bundled guest of that name (hello, share, " in out
    assert "memory of 5 bytes" in out
    assert "pytest_plugin.py" not in out.partition("= FAILURES =")[2]
    assert "machine.py" not in out


def test_in_parallel_and_by_marker(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "good/pass.asm", "good/crash.asm")
    (tmp_path / "test_x.py").write_text("def test_x(): pass\n")
    done = pytest_in(tmp_path, "-n", "2")
    assert "3 passed" in done.stdout, done.stdout
    done = pytest_in(tmp_path, "-m", "guest", "--strict-markers", "-W", "error")
    assert "2 passed, 1 deselected" in done.stdout, done.stdout


def test_boot_fixture(tmp_path: Path) -> None:
    runner_programs.write(tmp_path, "bad/fault.asm")
    (tmp_path / "bad" / "test_boot.py").write_text(
        '''\
import pytest

SOURCE = """
.include "lib/kernel.inc"
.text
main:
    mov rax, 0x1122334455667788
    mov [rip + word], rax
1:  jmp 1b
.data
word: .quad 0
"""

def test_two(boot):
    run = boot("hello", domains=2, memory=8 << 20, cmdline=["first", "second"])
    assert run.verdict.verdict.value == "PASS"
    assert "first" in run.console(1) and "second" in run.console(2)
    assert run.domain(2).exit.reason == "poweroff"
    assert run.counters["domains_created"] == 2
    assert run.finished and run.audit() == []

def test_memory(boot):
    run = boot(SOURCE, limit=100_000, start=False)
    run.run(100_000)
    assert not run.finished
    assert (0x1122334455667788).to_bytes(8, "little") in run.read(
        0xffffffff80000000, 0x8000)
    assert run.walk(0x1234).fault is not None
    assert run.verdict.verdict.value == "TIMEOUT"

def test_fails(boot):
    run = boot("fault.asm")
    assert run.report() == "", "look below"
'''
    )
    done = pytest_in(tmp_path, "bad/test_boot.py")
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "console of machine 1, d1 fault" in done.stdout
    assert "crash report of machine 1, d1 fault" in done.stdout


def test_a_project_without_guests_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int x;\n")
    (tmp_path / "y.asm").write_text("; no guest\n")
    (tmp_path / "test_x.py").write_text(
        "import sys\n"
        "def test_x():\n"
        "    loaded = {'unicorn', 'numpy', 'keystone', 'hypervisor', 'emu', 'guests.runner'}\n"
        "    assert not loaded & set(sys.modules)\n"
    )
    done = pytest_in(tmp_path, "-W", "error")
    assert "1 passed" in done.stdout, done.stdout


def test_the_library_of_this_repository_is_not_collected() -> None:
    done = pytest_in(ROOT, "guests/lib", "guests/kit", "--collect-only", "-p", "no:xdist")
    assert "no tests collected" in done.stdout
