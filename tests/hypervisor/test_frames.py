"""Frames that go back to the heap: nothing of the last owner's reaches the next one."""

import pytest

from emu.cpu import RBX, RIP
from emu.trap import PF
from emu.units import MFN, PAGE_SHIFT
from hypervisor.domain import Exit
from hypervisor.frames import FREE, INVALID_M2P
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.tiny import SPARE, Tiny

SECRET = b"secret" * 600
PAGES = 4


class Secretive:
    """A domain with a secret in each page, and a second one that has the same in its first."""

    def __init__(self, opaque: bool) -> None:
        self.hv = Hypervisor(Settings(machine_memory=4 << 20, opaque=opaque))
        self.one, self.two = (Handmade(self.hv, PAGES) for _ in range(2))
        for page in range(PAGES):
            self.one.write(self.one.va(page), SECRET[page:])
            self.hv.frames.set_m2p(self.one.mfn(page), page)
        self.two.write(self.two.va(0), SECRET)

    def freed(self, *frames: MFN) -> None:
        """These are free, and no free frame of the machine holds anything."""
        table, memory = self.hv.frames, self.hv.machine.memory
        assert [table.owner[mfn] for mfn in frames] == [FREE] * len(frames)
        free = table.owner_column == FREE
        assert not memory.array[free].any(), "a free frame is not scrubbed"
        assert (table.m2p_column[free] == INVALID_M2P).all()


@pytest.fixture(params=[False, True], ids=["plain", "opaque"])
def secretive(request):
    return Secretive(request.param)


def test_given_back(secretive):
    one = secretive.one
    mfn = one.mfn(1)
    assert one.update(1, 0) == 0
    assert one.give_back(mfn) == 1
    secretive.freed(mfn)


def test_given_back_and_unmapped_later(secretive):
    one = secretive.one
    mfn = one.mfn(1)
    assert one.give_back(mfn) == 1
    assert secretive.hv.frames.owner[mfn] == one.domain.id, "still mapped"
    assert one.update(1, 0) == 0
    secretive.freed(mfn)


def test_merged(secretive):
    one, two = secretive.one, secretive.two
    assert one.share(0) == 0
    old = two.mfn(0)
    assert two.share(0) >= 0
    assert two.mfn(0) == one.mfn(0) != old
    secretive.freed(old)


def test_the_last_mapping_of_a_shared_frame_goes(secretive):
    one = secretive.one
    assert one.share(2) == 0
    mfn = one.mfn(2)
    assert one.update(2, 0) == 0
    secretive.freed(mfn)


def test_a_table_given_back(secretive):
    one = secretive.one
    space = one.new_space([one.mfn(3) << PAGE_SHIFT | RO])
    one.drop_space(space)
    secretive.freed(space.l4, space.l3, space.l2, space.l1)


def test_all_that_a_dead_domain_had(secretive):
    one, two = secretive.one, secretive.two
    assert (one.share(0), two.share(0)) >= (0, 0)
    frames = [one.mfn(page) for page in range(1, PAGES)]
    shared = one.mfn(0)
    secretive.hv.end(one.domain, Exit("destroyed"))
    secretive.freed(*frames)
    secretive.hv.end(two.domain, Exit("destroyed"))
    secretive.freed(shared)


def test_code_that_ran_from_a_frame_went_with_it():
    """The engine keeps what it translated by machine address: scrubbing must reach that too."""
    tiny = Tiny("mov rsp, STACK\ncall SPARE\nafter: jmp done\nfault: mov ebx, 99\njmp done")
    tiny.trap(PF, "fault")
    tiny.write(tiny.va(SPARE), b"\xbb\x07\0\0\0\xc3")  # mov ebx, 7; ret
    tiny.run()
    assert tiny.words[RBX] == 7
    mfn = tiny.mfn(SPARE)
    assert tiny.update(SPARE, 0) == 0
    assert tiny.give_back(mfn) == 1
    assert tiny.get_frame() == mfn, "the frame that was freed last is given first"
    assert tiny.update(SPARE, mfn << PAGE_SHIFT | RW) == 0
    tiny.words[RIP] = tiny.va(0)
    tiny.words[0] = 0  # what is there now, zeros, is: add [rax], al
    tiny.run()
    assert tiny.words[RBX] == 99
