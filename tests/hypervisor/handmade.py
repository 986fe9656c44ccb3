"""A domain built by hand: genuine page tables in genuine frames, no kernel in them.

The test is the guest: it makes hypercalls through the dispatcher and stores through the guest's
own page tables, so that a write to a read-only entry is refused exactly where the MMU would.
"""

import struct

from emu.paging import PTE_MFN_MASK, PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, MFN, PAGE_SHIFT, PAGE_SIZE, VA
from hypervisor.abi import DomId, Hypercall, MmuExt, XenMem
from hypervisor.console import Console
from hypervisor.domain import Domain, State
from hypervisor.hypervisor import Hypervisor

BASE = VA(0x4000_0000)
TABLE = PTE_P | PTE_RW | PTE_US
RW = PTE_P | PTE_RW | PTE_US
RO = PTE_P | PTE_US


class Space:
    """One address space: four tables, ``BASE`` mapped by entry 0 of ``l1``."""

    def __init__(self, frames: list[MFN]) -> None:
        self.l4, self.l3, self.l2, self.l1 = frames


class Handmade:
    """A domain with ``pages`` private writable pages from ``BASE`` on, and a scratch page behind.

    ``space`` is its current address space; the tables are pinned and the base pointer is loaded.
    """

    def __init__(self, hv: Hypervisor, pages: int, max_pages: int = 256) -> None:
        self.hv = hv
        self.pages = pages
        self.domain: Domain = hv.create_domain("handmade", max_pages, Console())
        self.domain.state = State.RUNNABLE
        data = self.take(pages + 1)
        self.space = self.new_space(
            [mfn << PAGE_SHIFT | RW for mfn in data[:pages]]
            + [0] * (ENTRIES - pages - 1)
            + [data[pages] << PAGE_SHIFT | RW]
        )
        self.scratch = VA(BASE + (ENTRIES - 1) * PAGE_SIZE)
        assert hv.paging.get_table(self.space.l4, 4, self.domain) == 0
        self.domain.table = self.space.l4

    def take(self, count: int) -> list[MFN]:
        """Frames from the heap, as the builder takes them."""
        frames = self.hv.frames.allocate_many(count, self.domain.id)
        self.domain.pages += count
        return frames

    def new_space(self, entries: list[int]) -> Space:
        """Build and pin four tables whose L1 holds ``entries``."""
        space = Space(self.take(4))
        words = self.hv.machine.memory.words
        for upper, lower in (
            (space.l4, space.l3),
            (space.l3, space.l2),
            (space.l2, space.l1),
        ):
            words[upper * ENTRIES + (1 if upper == space.l3 else 0)] = lower << PAGE_SHIFT | TABLE
        for i, entry in enumerate(entries):
            words[space.l1 * ENTRIES + i] = entry
        assert self.hv.paging.pin(space.l4, 4, self.domain) == 0
        return space

    def drop_space(self, space: Space) -> None:
        """Unpin an address space and give its tables back."""
        assert self.hv.paging.unpin(space.l4, self.domain) == 0
        for mfn in (space.l4, space.l3, space.l2, space.l1):
            assert self.give_back(mfn) == 1

    # -- hypercalls ------------------------------------------------------------------------

    def call(self, number: Hypercall, *arguments: int) -> int:
        """One hypercall, with unsigned registers."""
        padded = [a & ((1 << 64) - 1) for a in arguments] + [0] * (6 - len(arguments))
        result = self.hv.dispatch.invoke(self.domain, number, padded)
        assert result is not None
        return result

    def share(self, page: int, avl: int = 0x200) -> int:
        return self.call(Hypercall.make_ro_and_share, self.va(page), avl, 0)

    def update(self, page: int, entry: int) -> int:
        return self.call(Hypercall.update_va_mapping, self.va(page), entry, 2)

    def give_back(self, mfn: int) -> int:
        """decrease_reservation of one frame; 1 if it was taken."""
        self.write(self.scratch + 64, struct.pack("<Q", mfn))
        self.write(
            self.scratch,
            struct.pack("<QQIIH6x", self.scratch + 64, 1, 0, 0, DomId.SELF),
        )
        return self.call(Hypercall.memory_op, XenMem.decrease_reservation, self.scratch)

    def get_frame(self) -> int | None:
        """increase_reservation of one frame; None if there is none."""
        self.write(
            self.scratch,
            struct.pack("<QQIIH6x", self.scratch + 64, 1, 0, 0, DomId.SELF),
        )
        if self.call(Hypercall.memory_op, XenMem.increase_reservation, self.scratch) != 1:
            return None
        return int(struct.unpack("<Q", self.read(self.scratch + 64, 8))[0])

    def mmuext(self, command: MmuExt, mfn: int) -> int:
        self.write(self.scratch, struct.pack("<I4xQQ", command, mfn, 0))
        return self.call(Hypercall.mmuext_op, self.scratch, 1, 0, DomId.SELF)

    # -- memory ----------------------------------------------------------------------------

    def va(self, page: int) -> VA:
        return VA(BASE + page * PAGE_SIZE)

    def entry(self, page: int, space: Space | None = None) -> int:
        at = (space or self.space).l1 * ENTRIES + page
        return self.hv.machine.memory.words[at]

    def mfn(self, page: int, space: Space | None = None) -> MFN:
        return MFN((self.entry(page, space) & PTE_MFN_MASK) >> PAGE_SHIFT)

    def contents(self, page: int, space: Space | None = None) -> bytes:
        return self.hv.machine.memory.frame_bytes(self.mfn(page, space))

    def read(self, va: int, length: int) -> bytes:
        return self.hv.guest.read(self.domain, va, length)

    def write(self, va: int, data: bytes) -> None:
        """Store through the page tables; GuestFault where the MMU would fault."""
        self.hv.guest.write(self.domain, va, data)
