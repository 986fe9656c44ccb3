"""``cowbird debug``: options, scripts, pipes, and a terminal with history and completion."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hypervisor.ring_guests import guest as ring_guest

ENDLESS = """
; cowbird: description = runs for ever
.include "lib/kernel.inc"
.text
main:
    print_line "running"
1:  inc rbx
    jmp 1b
"""
COMMAND = [sys.executable, "-m", "hypervisor", "debug"]
_ENV = {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"}


def debug(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=typed, capture_output=True, text=True, timeout=120, env=_ENV
    )


def test_commands_and_exit_codes() -> None:
    run = debug("hello", "-c", "break main", "-c", "continue", "-c", "when")
    assert run.returncode == 0
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0].startswith("breakpoint 1 in d1 at ")
    assert lines[1].startswith("breakpoint 1, d1 hello, position ")
    assert lines[2].startswith("=> ")
    assert lines[3].startswith("position ")
    assert "\x1b" not in run.stdout


def test_text_stays_as_it_is_and_much_of_it_comes_at_once() -> None:
    run = debug("hello", "-c", "echo :smile: [red]", "-c", "x/400000bx $rip")
    assert run.returncode == 0
    assert run.stdout.startswith(":smile: [red]\n")
    assert run.stdout.count("\n") > 10_000


def test_an_error_ends_a_script() -> None:
    run = debug("hello", "-c", "echo one", "-c", "foo", "-c", "echo two")
    assert run.returncode == 1
    assert run.stdout == "one\n"
    assert run.stderr == "foo: no such command (see 'help')\n"


def test_files_come_before_commands(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("# a comment\necho file\n")
    run = debug("hello", "-c", "echo option", "-x", str(script))
    assert (run.returncode, run.stdout) == (0, "file\noption\n")
    run = debug("hello", "-x", "/nonexistent")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "cowbird: error: /nonexistent: no such file\n"


def test_a_pipe_has_no_prompt_and_lives_on_after_errors() -> None:
    run = debug("hello", typed="echo one\nfoo\n\n  # nothing\necho two\n")
    assert run.returncode == 1
    assert run.stdout == "one\ntwo\n"
    assert run.stderr.count("\n") == 1
    run = debug("hello", typed="quit 5\necho never\n")
    assert (run.returncode, run.stdout) == (5, "")
    assert debug("hello").returncode == 0


def test_bytes_that_are_no_text_are_no_command() -> None:
    run = subprocess.run(
        [*COMMAND, "hello"], input=b"echo a\n\xff\xfe\n\0\necho b\n", capture_output=True,
        timeout=120, env=_ENV,
    )  # fmt: skip
    assert run.stdout == b"a\nb\n"
    assert run.stderr.count(b"no such command") == 2


def test_what_boot_takes() -> None:
    run = debug(
        "share", "--domains", "2", "--cmdline", "patterns=4", "--memory", "2M", "--machine-memory",
        "32M", "-c", "domains", "-c", "c", "-c", "c", "-c", "audit",
    )  # fmt: skip
    assert run.returncode == 0
    assert "d2 share | ok 4 contents after writing" in run.stdout
    assert "no violation" in run.stdout
    assert debug("nothing-of-the-kind").returncode == 2


def test_options_that_contradict() -> None:
    assert "-S goes with gdb" in debug("hello", "-S").stderr
    assert "-s is --gdb already" in debug("hello", "-s", "--gdb", "tcp::1").stderr
    assert debug("hello", "--gdb", "nonsense").returncode == 2


def test_a_crash_is_a_stop_with_its_report(tmp_path: Path) -> None:
    source = tmp_path / "bad.asm"
    source.write_text(ENDLESS.replace("1:  inc rbx", "    ud2"))
    run = debug(str(source), "-c", "c", "-c", "registers")
    assert run.returncode == 0
    assert re.search(r"^d1 bad crashed, position ", run.stdout, re.MULTILINE)
    assert run.stdout.count("last traps and hypercalls") == 1
    assert run.stderr == ""


def test_json_and_trace_are_written(tmp_path: Path) -> None:
    result, trace = tmp_path / "r.json", tmp_path / "t.jsonl"
    run = debug("hello", "--json", str(result), "--trace", str(trace), "-c", "c")
    assert run.returncode == 0
    assert '"outcome": "ok"' in result.read_text()
    assert '"event":"exit"' in trace.read_text()


# --- a terminal ----------------------------------------------------------------------------


class Terminal:
    """A session on a pseudo-terminal."""

    def __init__(self, arguments: list[str], history: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(_ENV | {"COWBIRD_HISTORY": str(history)})
            os.execv(sys.executable, [*COMMAND, *arguments])
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Everything up to ``text``, which is taken."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            ready, _, _ = select.select([self.fd], [], [], max(0, left))
            if not ready:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"ended without {text!r}: {self.seen!r}")
            self.seen += data.decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def press_until(self, key: str, text: str) -> None:
        """Press a key, and again if it was lost: between two looks at the keyboard Python's
        readline notices a signal only at the next key."""
        for _ in range(30):
            self.type(key)
            try:
                self.wait_for(text, 2)
            except AssertionError:
                continue
            return
        raise AssertionError(f"no {text!r} in {self.seen!r}")

    def end(self) -> int:
        """The exit code, once it has ended."""
        while True:
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.end()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history"


@pytest.fixture
def terminal(history: Path) -> Iterator[Terminal]:
    session = Terminal(["hello"], history)
    yield session
    session.kill()


def test_a_prompt_with_completion_repetition_and_history(terminal: Terminal, history: Path) -> None:
    terminal.wait_for("(cowbird d1) ")
    terminal.type("bre\tmai\t\n")
    assert "break main" in terminal.wait_for("(cowbird d1) ")
    terminal.type("continue\n")
    assert "breakpoint 1, d1 hello" in terminal.wait_for("(cowbird d1) ")
    terminal.type("stepi\n")
    first = re.search(r"position ([\d,]+)", terminal.wait_for("(cowbird d1) "))
    terminal.type("\n")
    second = re.search(r"position ([\d,]+)", terminal.wait_for("(cowbird d1) "))
    assert first is not None
    assert second is not None
    numbers = [int(found[1].replace(",", "")) for found in (first, second)]
    assert numbers[1] == numbers[0] + 1
    terminal.type("foo\n")
    assert "no such command" in terminal.wait_for("(cowbird d1) ")
    terminal.type("quit\n")
    assert terminal.end() == 1
    assert "break main" in history.read_text()

    again = Terminal(["hello"], history)
    try:
        again.wait_for("(cowbird d1) ")
        again.type("\x1b[A\x1b[A\x1b[A\n")  # up: quit, foo, stepi
        assert "position 1" in again.wait_for("(cowbird d1) ")
        again.type("\x04")
        assert again.end() == 0
    finally:
        again.kill()


def test_ctrl_c_stops_the_guest_and_drops_a_line(tmp_path: Path, history: Path) -> None:
    source = tmp_path / "endless.asm"
    source.write_text(ENDLESS)
    session = Terminal([str(source)], history)
    try:
        session.wait_for("(cowbird d1) ")
        session.type("continue\n")
        session.wait_for("| running")
        session.type("\x03")
        assert "interrupt, d1 endless" in session.wait_for("(cowbird d1) ")
        session.type("some text")
        session.wait_for("some text")
        session.press_until("\x03", "(cowbird d1) ")
        session.type("when\n")
        assert "position " in session.wait_for("(cowbird d1) ")
        session.type("quit 4\n")
        assert session.end() == 4
    finally:
        session.kill()


def test_what_is_typed_for_a_guest(tmp_path: Path) -> None:
    source = tmp_path / "ring.asm"
    source.write_text(ring_guest("block"))
    run = debug(
        str(source), "-c", "c", "-c", "console send hi", "-c", "c", "-c", r"console send \x71\c",
        "-c", "c", "-c", "console",
    )  # fmt: skip
    assert run.returncode == 0
    assert "ended (poweroff)" in run.stdout
    assert run.stdout.endswith(">hi\n")


def test_a_limit_ends_what_runs_for_ever(tmp_path: Path) -> None:
    source = tmp_path / "endless.asm"
    source.write_text(ENDLESS)
    run = debug(str(source), "--limit", "10K", "-c", "c", "-c", "c", "-c", "when")
    assert run.returncode == 0
    assert "the limit of 10,000 instructions, position 10,000" in run.stdout
    assert run.stdout.endswith("position 20,000 of 0..20,000\n")


def test_sigterm_ends_a_running_guest(tmp_path: Path) -> None:
    source, result = tmp_path / "endless.asm", tmp_path / "r.json"
    source.write_text(ENDLESS)
    process = subprocess.Popen(
        [*COMMAND, str(source), "--limit", "0", "--json", str(result), "-c", "echo on", "-c", "c"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_ENV,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert errors == "cowbird: terminated\n"
    assert '"outcome": "interrupted"' in result.read_text()


def test_the_readmes_example() -> None:
    """The commands of README's session are run; its lines are what they print, numbers apart."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r"<!-- debug (.*) -->\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    shown = found[2].splitlines()[1:]
    commands = [line.partition(") ")[2] for line in shown if line.startswith("(cowbird")]
    run = debug(*found[1].split(), typed="\n".join(commands) + "\n")
    assert (run.returncode, run.stderr) == (0, "")

    def plain(line: str) -> str:
        return re.sub(r"(0x)?\b[0-9a-f,]*\d[0-9a-f,]*\b", "N", line)

    printed = iter([plain(line) for line in run.stdout.splitlines()])
    for line in shown:
        if not line.startswith(("(cowbird", "...")):
            assert plain(line) in printed, line  # a test of `in` takes what it looks at


def test_the_result_is_that_of_the_last_future(tmp_path: Path) -> None:
    results = []
    for commands in (["c", "c"], ["c", "c", "goto 5000", "set $r15 = $r15", "c", "c"]):
        result = tmp_path / "result.json"
        arguments = [word for line in commands for word in ("-c", line)]
        run = debug("share", "--cmdline", "patterns=8", "--json", str(result), *arguments)
        assert run.returncode == 0
        results.append(result.read_text())
    assert results[0] == results[1]


def test_a_reader_that_goes_ends_it() -> None:
    command = [*COMMAND, "share", "--limit", "0", *["-c", "help"] * 40, "-c", "c"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENV)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(60) == 141
    finally:
        process.kill()
    assert errors == b""
