"""What the tests of gdb's protocol share: a toy with two processes, and talk with it."""

import pytest

from tests.emu.gdb_client import Talk
from tests.emu.gdb_fake import Process, Toy


@pytest.fixture
def toy() -> Toy:
    return Toy(Process(b"..w..w..<", name="one"), Process(b"ww....x", name="two & co"))


@pytest.fixture
def talk(toy: Toy) -> Talk:
    talk = Talk(toy)
    talk.document("features:read:target.xml")  # as gdb does when it connects
    return talk
