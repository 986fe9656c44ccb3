"""Disk blocks shared by reference: what is mapped, what is remembered, what is refused."""

import os
import struct

import pytest

from emu.paging import PTE_AVL, PTE_MFN_MASK, PTE_NX, PTE_P, PTE_RW, PTE_US
from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor import blockshare
from hypervisor.abi import DomId, Hypercall
from hypervisor.audit import audit
from hypervisor.blkback import FEATURE_SHARED, Op
from hypervisor.disk import BLOCK, Mode
from hypervisor.domain import Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.block_front import (
    DATA_PAGE,
    DATA_REF,
    ERROR,
    OKAY,
    REQUEST,
    RING_PAGE,
    UNSUPPORTED,
    Front,
)
from tests.hypervisor.kernels import Lab

BLOCKS = 16
PER_BLOCK = 8
"""Sectors of a block."""


def block(number):
    """What the test's image holds: all different, but 14 is as 13 and 15 is empty."""
    number = 13 if number == 14 else number
    return struct.pack("<Q", number + 1) * 512 if number < 15 else bytes(BLOCK)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(b"".join(block(i) for i in range(BLOCKS)))
    return file


class Reader(Front):
    """A driver that asks for shared blocks; ``window(n)`` are addresses where nothing is mapped."""

    def __init__(self, path, mode=Mode.COPY, lab=None, protocol="x86_64-abi"):
        super().__init__(path, mode, protocol, lab)
        self.hv.switch_to(self.domain)
        self.connect()

    def window(self, number):
        return self.guest.image.virt_base + (1 << 20) + number * PAGE_SIZE

    def entry(self, va):
        table, index, _ = self.hv.paging.find_l1(self.domain, va)
        return self.hv.paging.entry(table, index)

    def frame(self, number):
        return (self.entry(self.window(number)) & PTE_MFN_MASK) >> PAGE_SHIFT

    def read(self, number, window, count=1, flags=0):
        """Blocks from ``number`` on, mapped from ``window`` on."""
        targets = [self.window(window + i) | flags for i in range(count)]
        self.hv.switch_to(self.domain)
        return self.ask(Op.READ_SHARED, number * PER_BLOCK, targets)

    def seen(self, window):
        self.hv.switch_to(self.domain)
        return self.hv.guest.read(self.domain, self.window(window), PAGE_SIZE)

    def drop(self, window):
        self.hv.switch_to(self.domain)
        assert self.guest.call(Hypercall.update_va_mapping, self.window(window), 0, 2) == 0

    @property
    def remembered(self):
        return sorted((what, mfn) for (_, what), _, mfn in self.hv.disks.blocks.remembered())


@pytest.fixture
def lab():
    return Lab()


@pytest.fixture
def two(path, lab):
    """Two domains that have the same image as their disk."""
    return Reader(path, lab=lab), Reader(path, lab=lab)


def test_the_second_reader_gets_the_frame_of_the_first(two, path, lab):
    first, second = two
    assert first.said(FEATURE_SHARED) == "1"
    free, pages = lab.hv.frames.free, (first.domain.pages, second.domain.pages)
    assert first.read(2, 0, count=4) == OKAY
    assert lab.hv.frames.free == free - 4
    os.truncate(path, 0)  # nobody reads the file for this
    assert second.read(2, 0, count=4) == OKAY
    for i in range(4):
        assert first.frame(i) == second.frame(i)
        assert second.seen(i) == block(2 + i)
    assert lab.hv.frames.free == free - 4
    assert (first.domain.pages, second.domain.pages) == pages
    assert lab.hv.sharing.saved == 4
    assert lab.hv.counters["shared_by_reference"] == 4
    assert (first.domain.tally["block_entered"], second.domain.tally["block_merged"]) == (4, 4)
    assert second.domain.tally["shared_by_reference"] == 4
    assert first.domain.tally["shared_by_reference"] == 0
    assert lab.hv.sharing.counters["calls"] == 0


@pytest.mark.parametrize("protocol", sorted(REQUEST))
def test_the_entry(path, lab, protocol):
    reader = Reader(path, lab=lab, protocol=protocol)
    assert reader.read(3, 5, flags=PTE_AVL) == OKAY
    entry = reader.entry(reader.window(5))
    assert entry & (PTE_P | PTE_RW | PTE_NX | PTE_AVL) == PTE_P | PTE_NX | PTE_AVL
    assert lab.hv.frames.owner[reader.frame(5)] == DomId.COW
    writable = entry | PTE_RW
    answer = reader.guest.call(Hypercall.update_va_mapping, reader.window(5), writable, 2)
    assert answer < 0
    assert reader.read(3, 6, flags=PTE_US) == OKAY
    assert reader.frame(6) == reader.frame(5)
    assert lab.hv.frames.refs[reader.frame(5)] == 2


def test_what_was_mapped_there_is_given_back(two, lab):
    reader, other = two
    assert reader.read(0, 0) == OKAY
    assert other.read(0, 0) == OKAY
    frame = reader.frame(0)
    assert reader.read(1, 0) == OKAY
    assert reader.seen(0) == block(1)
    assert lab.hv.frames.refs[frame] == 1
    assert other.read(0, 0) == OKAY, "the same again"
    assert lab.hv.frames.refs[frame] == 1
    private = reader.mfn(DATA_PAGE)
    at = reader.guest.scratch + DATA_PAGE * PAGE_SIZE
    assert reader.ask(Op.READ_SHARED, 0, [at]) == OKAY
    assert lab.hv.frames.refs[private] == 0
    assert lab.hv.frames.owner[private] == reader.domain.id, "a page of its own, mapped nowhere"


def test_equal_blocks_are_one_frame(two, lab):
    reader, other = two
    assert reader.read(13, 0, count=2) == OKAY
    assert reader.frame(0) == reader.frame(1)
    assert lab.hv.sharing.saved == 1
    assert other.ask(Op.READ, 13 * PER_BLOCK) == OKAY
    shared = other.guest.scratch + DATA_PAGE * PAGE_SIZE
    assert other.guest.call(Hypercall.make_ro_and_share, shared, 0, 0) == 1, "a copy merges too"
    assert other.mfn(DATA_PAGE, write=False) == reader.frame(0)
    assert lab.hv.sharing.saved == 2
    assert audit(lab.hv) == []


def test_frames_go_with_their_last_mapping(two, lab):
    reader, other = two
    assert reader.read(0, 0, count=3) == other.read(1, 0) == OKAY
    frame = other.frame(0)
    lab.hv.end(reader.domain, Exit("destroyed"))
    lab.hv.reap()
    assert other.remembered == [(1, frame)]
    other.drop(0)
    assert other.remembered == []
    assert lab.hv.frames.owner[frame] == 0xFFFF
    assert other.read(1, 0) == OKAY
    assert other.domain.tally["shared_by_reference"] == 1
    lab.hv.end(other.domain, Exit("destroyed"))
    lab.hv.reap()
    lab.check_empty()


def test_a_block_of_a_copy_that_was_written_is_the_domains_own(two, lab):
    reader, other = two
    assert reader.read(4, 0) == OKAY
    other.page(DATA_PAGE)[:] = b"w" * PAGE_SIZE
    assert other.ask(Op.WRITE, 4 * PER_BLOCK + 3, [(DATA_REF, 0, 0)]) == OKAY
    assert other.read(4, 0, count=2) == OKAY
    assert other.seen(0) != block(4)
    assert other.seen(0)[3 * 512 : 4 * 512] == b"w" * 512
    assert reader.seen(0) == block(4)
    assert [name for name, _ in reader.remembered] == [4, 5]
    assert reader.read(4, 1) == OKAY
    assert reader.frame(1) == reader.frame(0)


def test_a_block_that_is_written_through_is_forgotten(path, lab):
    reader, writer = Reader(path, Mode.READ_ONLY, lab), Reader(path, Mode.WRITABLE, lab)
    assert reader.read(4, 0, count=3) == OKAY
    assert writer.read(5, 0) == OKAY
    assert writer.frame(0) == reader.frame(1), "by its contents"
    assert writer.domain.tally["shared_by_reference"] == 0
    writer.page(DATA_PAGE)[:] = b"w" * PAGE_SIZE
    assert writer.ask(Op.WRITE, 6 * PER_BLOCK - 1, [(DATA_REF, 0, 1)]) == OKAY
    assert [name for name, _ in reader.remembered] == [4]
    assert reader.seen(1) == block(5), "who maps it keeps it"
    assert reader.read(5, 5) == OKAY
    assert reader.seen(5)[-512:] == b"w" * 512


def test_groups_never_meet(path):
    lab = Lab()
    lab.hv = Hypervisor(Settings(machine_memory=16 << 20, groups=2))
    first, second, third = (Reader(path, lab=lab) for _ in range(3))
    for reader in (first, second, third):
        assert reader.read(1, 0) == OKAY
    assert first.frame(0) == third.frame(0) != second.frame(0)
    assert lab.hv.counters["shared_by_reference"] == 1


def test_an_opaque_machine(path):
    lab = Lab()
    lab.hv = Hypervisor(Settings(machine_memory=16 << 20, opaque=True))
    first, second = Reader(path, lab=lab), Reader(path, lab=lab)
    assert first.read(1, 0) == second.read(1, 0) == OKAY
    assert first.frame(0) == second.frame(0)


def test_a_machine_that_shares_zero_pages_only_does_not_offer_it(path):
    lab = Lab()
    lab.hv = Hypervisor(Settings(machine_memory=16 << 20, zero_only=True))
    reader = Reader(path, lab=lab)
    assert reader.said(FEATURE_SHARED) == "0"
    assert reader.read(1, 0) == UNSUPPORTED
    assert reader.ask(Op.READ) == OKAY


@pytest.mark.parametrize(
    ("sector", "targets", "count"),
    [
        (1, [0], None),
        (BLOCKS * PER_BLOCK, [0], None),
        ((BLOCKS - 1) * PER_BLOCK, [0, 1], None),
        (1 << 63, [0], None),
        ((1 << 64) - 8, [0], None),
        (0, [], None),
        (0, [0], 12),
        (0, [0], 255),
        (0, [0, 0x7000_0000_0000 << 64], None),
        (0, [0, 0x1000_0000_0000_0001], None),
    ],
)
def test_bad_requests(path, lab, sector, targets, count):
    reader = Reader(path, lab=lab)
    wild = (0x7000_0000_0000, 0xFFFF_8000_0000_0000, 0x8000_0000_0000, (1 << 64) - PAGE_SIZE)
    named = [reader.window(t) if t < 16 else wild[t % 4] for t in targets]
    assert reader.ask(Op.READ_SHARED, sector, named, count) == ERROR
    assert reader.entry(reader.window(0)) == 0
    assert reader.ask(Op.READ) == OKAY


@pytest.mark.parametrize("wrong", [1, 2, 8, 0x20, 0x100])
def test_bits_that_may_not_be_set(path, lab, wrong):
    reader = Reader(path, lab=lab)
    assert reader.ask(Op.READ_SHARED, 0, [reader.window(0), reader.window(1) | wrong]) == ERROR
    assert reader.entry(reader.window(0)) == 0


@pytest.mark.parametrize(
    "va", [0x7000_0000_0000, 0xFFFF_8000_0000_0000, 0x8000_0000_0000, (1 << 64) - PAGE_SIZE]
)
def test_addresses_that_are_nobodys(path, lab, va):
    reader = Reader(path, lab=lab)
    assert reader.ask(Op.READ_SHARED, 0, [reader.window(0), va]) == ERROR
    assert reader.entry(reader.window(0)) == 0


def test_without_memory(path, lab):
    reader = Reader(path, lab=lab)
    taken = lab.hv.frames.allocate_many(lab.hv.frames.free - 1, DomId.XEN, 0)
    assert reader.read(0, 0, count=3) == ERROR
    assert reader.seen(0) == block(0)
    assert reader.entry(reader.window(1)) == 0
    assert reader.read(0, 1) == OKAY, "that one is there already"
    for mfn in taken:
        lab.hv.frames.release(mfn)


def test_a_file_that_shrinks(path, lab):
    reader = Reader(path, lab=lab)
    os.truncate(path, 3 * BLOCK)
    assert reader.read(2, 0, count=2) == ERROR
    assert reader.entry(reader.window(1)) == 0
    assert reader.read(2, 1) == OKAY


def test_what_is_remembered_is_bounded(path, lab, monkeypatch):
    monkeypatch.setattr(blockshare, "MAX_NAMES", 2)
    path.write_bytes(bytes(BLOCK) * BLOCKS)
    reader = Reader(path, lab=lab)
    assert reader.read(0, 0, count=8) == OKAY
    assert [name for name, _ in reader.remembered] == [0, 1]
    assert len({mfn for _, mfn in reader.remembered}) == 1
    assert reader.domain.tally["block_merged"] == 7


def test_the_ring_itself_may_be_where_the_block_comes_to(path, lab):
    reader = Reader(path, lab=lab)
    ring, at = reader.mfn(RING_PAGE), reader.guest.scratch + RING_PAGE * PAGE_SIZE
    reader.push(Op.READ_SHARED, 0, [at])
    reader.kick()
    assert reader.entry(at) & PTE_MFN_MASK != ring << PAGE_SHIFT
    assert struct.unpack_from("<QBxh", lab.hv.machine.memory.frame(ring), 64) == (77, 64, OKAY)
    assert audit(lab.hv) == []
    lab.hv.end(reader.domain, Exit("destroyed"))
    lab.hv.reap()
    lab.check_empty()
