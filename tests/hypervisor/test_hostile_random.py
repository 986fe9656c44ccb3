"""Hostile domains at random: the audit after every step, every frame back at the end.

``python -m tests.hypervisor.test_hostile_random SEED STEPS`` runs it for longer.
"""

import random
import sys

import pytest

from hypervisor.abi import Width
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.hostile import Hostile

MEMORY = 1 << 20


def attack(seed: int, steps: int) -> None:
    """``steps`` actions of two or three domains, of one width or both, that come and go."""
    rng = random.Random(seed)
    settings = Settings(
        machine_memory=MEMORY,
        seed=seed,
        groups=rng.choice((1, 1, 2)),
        opaque=rng.random() < 0.3,
        hash_bits=rng.choice((64, 64, 1, 0)),
        zero_only=rng.random() < 0.1,
    )
    hv = Hypervisor(settings)
    free = hv.frames.free
    widths: tuple[Width, ...] = ((64,), (32,), (64, 32))[seed % 3]
    guests: list[Hostile] = []
    for step in range(steps):
        hv.reap()
        guests = [guest for guest in guests if guest.domain.exit is None]
        while len(guests) < 2 or (len(guests) < 3 and rng.random() < 0.02):
            guests.append(Hostile(hv, rng, 48, rng.choice(widths)))
        guest = rng.choice(guests)
        if rng.random() < 0.004:
            hv.end(guest.domain, Exit("destroyed"))
            hv.reap()
        else:
            guest.step()
        found = audit(hv)
        if found:
            raise AssertionError(f"seed {seed} step {step}: {guest.log}: {found[0]}")
    hv.reap()
    for guest in guests:
        if guest.domain.exit is None:
            hv.end(guest.domain, Exit("destroyed"))
    hv.reap()
    assert not hv.domains
    assert audit(hv) == []
    assert hv.frames.free == free, f"seed {seed}: frames are lost"
    assert not any(hv.frames.linear), f"seed {seed}: linear counts are left"


@pytest.mark.parametrize("seed", range(8))
def test_hostile_domains(seed: int) -> None:
    attack(seed, 800)


if __name__ == "__main__":
    for n in range(int(sys.argv[1]), 1 << 30):
        attack(n, int(sys.argv[2]))
        print("seed", n, "survived", flush=True)
