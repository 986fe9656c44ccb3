"""Fixtures that several test files here share."""

import pytest

from tests.hypervisor import cli_guests
from tests.hypervisor.grant_guests import World


@pytest.fixture
def world():
    """Two domains that can grant to each other; audited, and all memory back, at the end."""
    world = World()
    yield world
    world.finish()


@pytest.fixture
def giver(world):
    return world.giver


@pytest.fixture
def taker(world):
    return world.taker


@pytest.fixture
def source(tmp_path):
    """Write a guest's source; gives its path."""

    def write(text, name="guest.asm"):
        return cli_guests.write(tmp_path, name, text)

    return write
