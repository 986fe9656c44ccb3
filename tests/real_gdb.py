"""The real gdb against a spawned ``cowbird debug``: one server, one batch of gdb commands.

``Served`` starts the server and knows its address; ``gdb`` runs commands and gives back what gdb
said. Marks make parts of that easy to find: ``part(out, "name")`` is what came between the command
``mark("name")`` and the next mark.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.needs import need

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 120
"""Seconds after which a session is stuck."""
_PLAIN = ("set pagination off", "set confirm off", "set width 0", "set style enabled off")


class Served:
    """A ``cowbird debug`` that serves gdb."""

    def __init__(self, *arguments: str, address: str = "tcp::0", stopped: bool = True) -> None:
        need("gdb")
        command = [sys.executable, "-m", "hypervisor", "debug", *arguments, "--gdb", address]
        self.process = subprocess.Popen(
            [*command, "-S"] if stopped else command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.errors = ""
        for line in self.process.stderr:
            self.errors += line
            found = re.search(r"target extended-remote (\S+)", line)
            if found:
                self.address = found[1]
                return
        raise AssertionError(f"the server does not listen: {self.errors}")

    def __enter__(self) -> "Served":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        """Wait for the server's own end: exit code, its output, its errors."""
        out, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, self.errors + errors

    def gdb(self, *commands: str, extended: bool = False, before: Sequence[str] = ()) -> str:
        """Connect, run commands, and give back all that gdb printed."""
        target = "extended-remote" if extended else "remote"
        lines = [*_PLAIN, *before, f"target {target} {self.address}", *commands]
        return run_gdb(lines)


def run_gdb(lines: Sequence[str]) -> str:
    """What gdb prints for these commands; errors do not end it."""
    command = [need("gdb"), "-nx", "-batch"]
    for line in lines:
        command += ["-ex", line]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.stdout


def mark(name: str) -> str:
    """A command that begins the part ``name`` of the output."""
    return f"echo \\n[[{name}]]\\n"


def part(output: str, name: str) -> str:
    """What gdb printed in a part."""
    _, found, rest = output.partition(f"\n[[{name}]]\n")
    assert found, output
    return rest.partition("\n[[")[0]
