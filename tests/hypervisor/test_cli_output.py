"""What the command line prints: consoles, tables, JSON, logs, and what it makes."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from guests import library
from tests.hypervisor import cli_guests
from tests.hypervisor.cli_runs import ROOT, command, is_one_error, run

# -- what it prints ----------------------------------------------------------------------------


def test_several_consoles_have_prefixes_and_no_colour_in_a_pipe():
    result = command("boot", "hello", "--domains", 2)
    assert result.returncode == 0
    text = result.stdout.decode()
    assert "d1 hello | " in text
    assert "d2 hello | " in text
    assert "\x1b" not in text
    assert "copy-on-write" in text  # and the table above is not cut:
    assert "…" not in text


def on_a_terminal(*arguments, typed=b"", **environment):
    """Run with a pseudo-terminal as all three streams; gives what it showed and the code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hypervisor", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    return shown, process.wait(timeout=60)


def test_a_terminal_gets_colours_and_progress():
    shown, code = on_a_terminal("boot", "hello", "--domains", 2)
    assert code == 0
    assert b"\x1b[32md1 hello | " in shown
    assert b"instructions\x1b[0m" in shown
    assert b"\x1b[?25h" in shown, "the cursor is back"
    plain, _ = on_a_terminal("boot", "hello", "--domains", 2, NO_COLOR="1")
    assert b"\x1b[3" not in plain


def test_a_single_guest_that_prints_nothing_shows_progress(source):
    shown, code = on_a_terminal("boot", source(cli_guests.LOOP), "--limit", "60M")
    assert code == 4
    assert b"1 domain  0 frames saved" in shown
    assert shown.rstrip().endswith(b"was reached by d1 guest")
    shown, _ = on_a_terminal("boot", source(cli_guests.SAYS_AND_LOOPS), "--limit", "60M")
    assert b"frames saved" not in shown


def test_keys_reach_the_only_guest(source):
    shown, code = on_a_terminal("boot", source(cli_guests.ECHO), typed=b"k")
    assert code == 0
    assert shown.count(b"k") == 2, (
        "once from the terminal, before the guest ran, once from the guest"
    )


def test_guests_do_not_steer_the_terminal(source):
    result = run("boot", source(cli_guests.says("a\\x1b[31mb")), "hello")
    assert "guest | a\\x1b[31mb" in result.stdout
    assert "\x1b" not in result.stdout


def test_one_console_is_joined_to_stdin(source):
    result = command("boot", source(cli_guests.ECHO), input=b"typed by nobody\nand more")
    assert result.returncode == 0, result.stderr
    assert result.stdout == b"typed by nobody\nand more"


def test_json_on_stdout_is_alone():
    result = command("boot", "hello", "--domains", 2, "--json", "-")
    assert json.loads(result.stdout)["exit_code"] == 0
    assert b"d1 hello | " in result.stderr


def test_equal_runs_give_equal_bytes(tmp_path):
    seen = set()
    for name in ("one", "two"):
        os.mkdir(tmp_path / name)
        result = command(
            *("boot", "hello", "text", "--domains", 3, "--seed", 7, "--audit"),
            *("--json", "r.json", "--trace", "t.jsonl"),
            cwd=tmp_path / name,
        )
        assert result.returncode == 0, result.stderr
        json_, trace = (tmp_path / name / f for f in ("r.json", "t.jsonl"))
        seen.add((json_.read_bytes(), trace.read_bytes(), result.stdout))
    assert len(seen) == 1
    assert seen.pop()[1].count(b"\n") > 10


def test_modules_are_given_out_in_turn(source, tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    out = tmp_path / "r.json"
    modules = ("--module", tmp_path / "a", "--module", tmp_path / "b")
    result = run("boot", source(cli_guests.says("x")), "--domains", 3, *modules, "--json", out)
    assert result.exit_code == 0, result.output
    names = [Path(d["module"]).name for d in json.loads(out.read_text())["domains"]]
    assert names == ["a", "b", "a"]


def test_log_names(source):
    result = run("boot", source(cli_guests.says("x")), "--log", "hypercall")
    assert "cowbird.hypercall: " in result.stderr
    assert "console_io" in result.stderr
    assert "cowbird.domain" not in result.stderr


def test_logs_are_for_people_and_the_trace_for_machines(source, tmp_path):
    trace = tmp_path / "t.jsonl"
    result = run("boot", "fork", "--log", "debug", "--trace", trace)
    assert re.search(r"trap vector=14 error=7\(P W U\) rip=0x[0-9a-f]+\n", result.stderr)
    assert re.search(r"cow_fault va=0x[0-9a-f]+ mfn=0x", result.stderr)
    assert re.search(r"update_va_mapping result=0 arguments=\[0x[0-9a-f]+, ", result.stderr)
    assert "0x" not in trace.read_text()
    text = cli_guests.HYPERCALL.format(number=35) + cli_guests.says("x").partition("_start:")[2]
    result = run("boot", source(text), "--log", "hypercall")
    assert "name=sysctl result=-ENOSYS" in result.stderr
    text = cli_guests.HYPERCALL.format(number=99) + cli_guests.says("x").partition("_start:")[2]
    assert "name=hypercall 99 result=-ENOSYS" in run("boot", source(text), "--log=debug").stderr


def test_limits_have_suffixes(source):
    path = source(cli_guests.LOOP)
    result = run("boot", path, "--limit", "1M")
    assert result.exit_code == 4
    assert "limit of 1,000,000 instructions" in result.stderr
    is_one_error(run("boot", path, "--limit", "5X"), "5X", "as 5M", "0 is no limit")
    assert run("boot", source(cli_guests.says("x")), "--limit", "0").exit_code == 0


def test_sizes_and_frames_are_told_exactly():
    result = run("boot", "hello", "--machine-memory", "1M")
    is_one_error(result, "needs 260 frames of 4 KiB, ", " are free")
    is_one_error(run("boot", "hello", "--memory", "4K"), "between 64K and 64G")
    is_one_error(run("boot", "hello", "--memory", "1.5M"), "1536K")
    assert "audit: no violations in 1 check\n" in run("boot", "hello", "hello").stdout


def test_guests_lists_what_is_bundled():
    result = run("guests")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        guest.name for guest in library.BUNDLED
    ]


def test_asm_makes_what_boot_takes(source, tmp_path):
    text = ".ifdef WORD\n" + cli_guests.says("made by hand") + '.endif\n.include "extra.inc"\n'
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "extra.inc").write_text(".equ EXTRA, 5\n")
    image = tmp_path / "out.elf"
    result = run(
        *("asm", source(text), "-o", image, "-I", tmp_path / "more"),
        *("-D", "WORD", "-D", "OTHER=0x10", "--symbols"),
    )
    assert result.exit_code == 0, result.output
    assert "T _start" in result.stdout
    assert "0000000000000010 a OTHER" in result.stdout
    assert run("boot", image).stdout == "made by hand\n"
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    assert run("boot", packed).stdout == "made by hand\n"


def test_asm_refuses(source, tmp_path):
    path = source(cli_guests.LOOP)
    is_one_error(run("asm", path, "-o", tmp_path / "no" / "out"), "-o", "cannot write")
    is_one_error(run("asm", path, "-o", "/dev/null", "-D", "1x=2"), "1x")
    is_one_error(run("asm", path, "-o", "/dev/null", "-D", "x=y"), "'y' is not a number")
    is_one_error(run("asm", tmp_path / "none.asm", "-o", "/dev/null"), "none.asm")


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("cowbird ")
