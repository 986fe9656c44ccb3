"""PV-GRUB of Debian's package, as it comes: it reaches its prompt and obeys what is typed.

A kernel that nobody here wrote: it makes its own page tables, sets a grant table up, asks XenStore
for disks and talks by the console ring, all without an event handler.
"""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.domain import State
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from tests.hypervisor.kernels import SPIN, kernel
from tests.needs import need

GRUB = {
    64: "/usr/lib/grub-xen/grub-x86_64-xen.bin",
    32: "/usr/lib/grub-xen/grub-i386-xen.bin",
}
PROMPT = "grub> "
STEP = 1_000_000
TO_PROMPT = 60_000_000
"""Instructions; it takes about 24 million."""


class Grub:
    """A machine that boots PV-GRUB, and somebody who types."""

    def __init__(self, width: int, memory: int = 32 << 20) -> None:
        self.hv = Hypervisor(Settings(machine_memory=128 << 20))
        self.free = self.hv.frames.free
        image = parse_image(Path(need(GRUB[width])).read_bytes(), "grub")
        self.domain = build_domain(self.hv, image, memory=memory, name="grub", console=Console())

    @property
    def screen(self) -> str:
        return self.domain.console.text()

    def until(self, text: str, limit: int = TO_PROMPT) -> None:
        """Run until the console's unfinished line ends with ``text``."""
        end = self.hv.machine.position + limit
        while not self.domain.console.partial.endswith(text):
            assert self.hv.machine.position < end, self.screen
            assert not self.hv.run(STEP // 10), self.screen

    def type(self, line: str) -> None:
        """Type a line when the prompt is there, and wait until it is shown as obeyed."""
        self.until(PROMPT)
        self.domain.console.feed(line.encode() + b"\r")
        while self.domain.exit is None and self.domain.console.partial.endswith(PROMPT):
            self.hv.run(STEP // 100)


@pytest.fixture(params=GRUB)
def grub(request: pytest.FixtureRequest) -> Grub:
    return Grub(request.param)


def test_it_reaches_its_prompt_and_obeys(grub: Grub) -> None:
    grub.until(PROMPT)
    assert "GNU GRUB" in grub.screen
    assert audit(grub.hv) == []
    grub.type("echo hello")
    grub.until(PROMPT)
    assert "hello" in grub.domain.console.lines
    grub.type("ls")
    grub.until(PROMPT)
    assert "(memdisk) (proc) " in grub.domain.console.lines
    grub.type("no-such-command")
    grub.until(PROMPT)
    assert "error: can't find command `no-such-command'." in grub.screen
    assert audit(grub.hv) == []
    grub.type("halt")
    assert grub.hv.run(TO_PROMPT)
    assert grub.domain.exit is not None
    assert grub.domain.exit.reason == "poweroff"
    assert not grub.hv.domains
    assert grub.hv.frames.free == grub.free
    assert audit(grub.hv) == []


@pytest.mark.parametrize("width", GRUB)
def test_it_runs_the_same_every_time(width: int) -> None:
    def run() -> tuple[int, str]:
        grub = Grub(width)
        grub.until(PROMPT)
        return grub.hv.machine.position, grub.screen

    assert run() == run()


def test_it_shares_the_machine(grub: Grub) -> None:
    other = build_domain(grub.hv, kernel(SPIN), memory=1 << 20, name="spin", console=Console())
    grub.until(PROMPT, 3 * TO_PROMPT)
    grub.type("halt")
    grub.hv.run(3_000_000)
    assert grub.domain.exit is not None
    assert other.state is State.RUNNABLE
    assert audit(grub.hv) == []


def cowbird(*arguments: str, typed: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hypervisor", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("width", GRUB)
def test_boot_from_the_command_line_with_a_pipe(width: int) -> None:
    done = cowbird("boot", need(GRUB[width]), typed=b"echo hi there\nhalt\n")
    assert done.returncode == 0, done.stderr
    assert b"\n\rhi there\n\r" in done.stdout


def test_input_that_ends_without_halt() -> None:
    done = cowbird("boot", need(GRUB[64]), typed=b"echo hi there\n")
    assert done.returncode == 6
    assert b"hi there" in done.stdout
    assert b"waiting for input, which has ended" in done.stderr


def test_a_prompt_on_a_terminal_does_not_spin_the_host() -> None:
    """While nobody types the host's CPU is idle most of the time; then a key is obeyed."""
    need(GRUB[64])
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "hypervisor", "boot", GRUB[64]])
    shown = b""
    try:
        while not shown.endswith(PROMPT.encode()):
            shown += os.read(terminal, 4096)
        ticks = _ticks(pid)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            time.sleep(0.1)
        used = (_ticks(pid) - ticks) / os.sysconf("SC_CLK_TCK")
        os.write(terminal, b"halt\r")
        while True:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert used < 0.5, f"{used} s of CPU in one second at a prompt"


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
