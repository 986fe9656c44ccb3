"""Guests that wait for keys by their console ring: blocked, polling, yielding, or by the clock."""

import subprocess
import sys
from pathlib import Path

import pytest

from emu.asm import assemble
from guests.library import VIRT_BASE, to_elf
from hypervisor.domain import State
from hypervisor.image import parse_image
from tests.hypervisor import ring_guests
from tests.hypervisor.kernels import Lab

WAYS = sorted(ring_guests.WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_fed_between_runs(way: str) -> None:
    lab = Lab()
    program = assemble(ring_guests.guest(way), name=way, base=VIRT_BASE)
    domain = lab.boot(parse_image(to_elf(program), way))
    finished = lab.hv.run(200_000)
    assert domain.console.partial == ">"
    waiting = way in ("block", "poll")
    assert finished is waiting
    assert (domain.state is State.BLOCKED) is waiting
    assert domain.console.feed(b"abc") == 3
    assert lab.hv.run(200_000) is waiting
    assert domain.console.partial == ">abc"
    domain.console.feed(b"q")
    assert lab.hv.run(200_000)
    assert lab.exits[domain.id].reason == "poweroff"
    lab.check_empty()


@pytest.mark.parametrize("way", WAYS)
def test_typed_into_a_pipe(way: str, tmp_path: Path) -> None:
    source = tmp_path / "guest.asm"
    source.write_text(ring_guests.guest(way))
    command = [sys.executable, "-m", "hypervisor", "boot", str(source)]
    done = subprocess.run(command, input=b"hello q", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b">hello "), done.stderr
    done = subprocess.run(command, input=b"hello", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (6, b">hello"), done.stderr
