"""Attacks by hypercall, one a test: each was, or could have been, a hole.

A guest may say anything. Whatever it says, there is no Python error, the audit is clean, and what
is not its own stays out of its reach.
"""

import struct
from collections.abc import Iterator

import pytest

from hypervisor.abi import DomId, Hypercall, VcpuOp, XenMem
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import Handmade

PAGES = 8


class Lair:
    """A machine with an attacker and a victim; afterwards everything must be as before."""

    def __init__(self) -> None:
        self.hv = Hypervisor(Settings(machine_memory=4 << 20, seed=7))
        self.free = self.hv.frames.free
        self.guest = Handmade(self.hv, PAGES)
        self.victim = Handmade(self.hv, PAGES)

    def check(self) -> None:
        assert audit(self.hv) == []

    def end(self) -> None:
        self.check()
        for guest in (self.guest, self.victim):
            self.hv.end(guest.domain, Exit("destroyed"))
        assert not self.hv.domains
        assert self.hv.frames.free == self.free
        assert not any(self.hv.frames.linear)
        self.check()


@pytest.fixture
def lair() -> Iterator[Lair]:
    """Checked before and after all domains are gone."""
    made = Lair()
    yield made
    made.end()


def multicall(guest: Handmade, *calls: tuple[int, ...]) -> list[int]:
    """The results, as unsigned numbers, of hypercalls made in one multicall."""
    raw = b"".join(
        struct.pack("<8Q", call[0], 0, *call[1:], *[0] * (7 - len(call))) for call in calls
    )
    guest.write(guest.va(0), raw)
    assert guest.call(Hypercall.multicall, guest.va(0), len(calls)) == 0
    out = guest.read(guest.va(0), len(raw))
    return [struct.unpack_from("<Q", out, 64 * i + 8)[0] for i in range(len(calls))]


# -- numbers that do not fit -------------------------------------------------------------------


def test_multicall_stores_results_that_are_no_errnos(lair: Lair) -> None:
    guest = lair.guest
    address = 0xFFFF_9000_0000_0000
    lair.hv.machine.memory.array[guest.domain.shared_info] = (1 << 64) - 1
    guest.write(guest.va(1), struct.pack("<H", DomId.SELF))
    results = multicall(
        guest,
        (Hypercall.set_debugreg, 0, address),
        (Hypercall.get_debugreg, 0),
        (Hypercall.memory_op, XenMem.maximum_gpfn, guest.va(1)),
    )
    assert results == [0, address, (1 << 64) - 2]


def test_a_time_area_before_the_domain_ever_ran(lair: Lair) -> None:
    guest = lair.guest
    guest.write(guest.va(1), struct.pack("<Q", guest.va(2)))
    call = VcpuOp.register_vcpu_time_memory_area
    assert guest.call(Hypercall.vcpu_op, call, 0, guest.va(1)) == 0
