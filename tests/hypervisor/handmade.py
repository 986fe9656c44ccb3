"""A domain built by hand: genuine page tables in genuine frames, no kernel in them.

The test is the guest: it makes hypercalls through the dispatcher and stores through the guest's
own page tables, so that a write to a read-only entry is refused exactly where the MMU would. It is
of either width: arguments are given as 64-bit guests pass them, and passed as its width has it.
"""

import struct

from emu.paging import PTE_MFN_MASK, PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, MFN, PAGE_SHIFT, PAGE_SIZE, VA
from hypervisor.abi import DomId, Hypercall, MmuExt, Width, XenMem
from hypervisor.console import Console
from hypervisor.domain import Domain, State
from hypervisor.hypervisor import Hypervisor

BASE = VA(0x4000_0000)
TABLE = PTE_P | PTE_RW | PTE_US
RW = PTE_P | PTE_RW | PTE_US
RO = PTE_P | PTE_US
RESERVATION = {64: "<QQIIH6x", 32: "<IIIIH2x"}
EXTENDED = {64: "<I4xQQ", 32: "<III"}
_SPLIT = {
    Hypercall.update_va_mapping: (1,),
    Hypercall.update_va_mapping_otherdomain: (1,),
    Hypercall.set_timer_op: (0,),
    Hypercall.update_descriptor: (0, 1),
}
"""Which arguments a 32-bit guest passes in two registers."""


def arguments_of(width: Width, number: int, arguments: tuple[int, ...]) -> list[int]:
    """Six registers with ``arguments`` in them, as guests of this width pass them."""
    registers: list[int] = []
    for i, argument in enumerate(arguments):
        registers.append(argument & ((1 << width) - 1))
        if width == 32 and i in _SPLIT.get(Hypercall(number), ()):
            registers.append(argument >> 32 & 0xFFFF_FFFF)
    return (registers + [0] * 6)[:6]


class Space:
    """One address space: tables from the top down, ``BASE`` mapped by entry 0 of ``l1``.

    ``last`` is a 32-bit guest's L2 table of L3 slot 3. ``top`` is what is pinned and loaded.
    """

    def __init__(self, frames: list[MFN], width: Width = 64) -> None:
        self.tables = frames
        if width == 64:
            self.l4, self.l3, self.l2, self.l1 = frames
            self.top, self.level = self.l4, 4
        else:
            self.l3, self.last, self.l2, self.l1 = frames
            self.top, self.level = self.l3, 3


class Handmade:
    """A domain with ``pages`` private writable pages from ``BASE`` on, and a scratch page behind.

    ``space`` is its current address space; the tables are pinned and the base pointer is loaded.
    """

    def __init__(self, hv: Hypervisor, pages: int, max_pages: int = 256, width: Width = 64) -> None:
        self.hv = hv
        self.pages = pages
        self.width = width
        self.letter = "Q" if width == 64 else "I"
        self.domain: Domain = hv.create_domain("handmade", max_pages, Console(), width)
        self.domain.state = State.RUNNABLE
        data = self.take(pages + 1)
        self.space = self.new_space(
            [mfn << PAGE_SHIFT | RW for mfn in data[:pages]]
            + [0] * (ENTRIES - pages - 1)
            + [data[pages] << PAGE_SHIFT | RW]
        )
        self.scratch = VA(BASE + (ENTRIES - 1) * PAGE_SIZE)
        assert hv.paging.get_table(self.space.top, self.space.level, self.domain) == 0
        hv.paging.top.set_base(self.domain, self.space.top)

    def take(self, count: int) -> list[MFN]:
        """Frames from the heap, as the builder takes them."""
        frames = self.hv.frames.allocate_many(count, self.domain.id)
        self.domain.pages += count
        return frames

    def new_space(self, entries: list[int]) -> Space:
        """Build and pin four tables whose L1 holds ``entries``."""
        space = Space(self.take(4), self.width)
        words = self.hv.machine.memory.words
        if self.width == 64:
            words[space.l4 * ENTRIES] = space.l3 << PAGE_SHIFT | TABLE
            words[space.l3 * ENTRIES + 1] = space.l2 << PAGE_SHIFT | TABLE
        else:
            words[space.l3 * ENTRIES + 1] = space.l2 << PAGE_SHIFT | PTE_P
            words[space.l3 * ENTRIES + 3] = space.last << PAGE_SHIFT | PTE_P
        words[space.l2 * ENTRIES] = space.l1 << PAGE_SHIFT | TABLE
        for i, entry in enumerate(entries):
            words[space.l1 * ENTRIES + i] = entry
        assert self.hv.paging.pin(space.top, space.level, self.domain) == 0
        return space

    def drop_space(self, space: Space) -> None:
        """Unpin an address space and give its tables back."""
        assert self.hv.paging.unpin(space.top, self.domain) == 0
        for mfn in space.tables:
            assert self.give_back(mfn) == 1

    # -- hypercalls ------------------------------------------------------------------------

    def call(self, number: Hypercall, *arguments: int) -> int:
        """One hypercall, with unsigned registers."""
        registers = arguments_of(self.width, number, arguments)
        result = self.hv.dispatch.invoke(self.domain, number, registers)
        assert result is not None
        return result

    def share(self, page: int, avl: int = 0x200) -> int:
        return self.call(Hypercall.make_ro_and_share, self.va(page), avl, 0)

    def update(self, page: int, entry: int) -> int:
        return self.call(Hypercall.update_va_mapping, self.va(page), entry, 2)

    def give_back(self, mfn: int) -> int:
        """decrease_reservation of one frame; 1 if it was taken."""
        self.write(self.scratch + 64, struct.pack("<Q", mfn))
        return self._reserve(XenMem.decrease_reservation)

    def get_frame(self) -> int | None:
        """increase_reservation of one frame; None if there is none."""
        if self._reserve(XenMem.increase_reservation) != 1:
            return None
        (mfn,) = struct.unpack(
            f"<{self.letter}", self.read(self.scratch + 64, struct.calcsize(self.letter))
        )
        return int(mfn)

    def _reserve(self, command: XenMem) -> int:
        """A reservation call of one extent, whose number is behind the structure."""
        raw = struct.pack(RESERVATION[self.width], self.scratch + 64, 1, 0, 0, DomId.SELF)
        self.write(self.scratch, raw)
        return self.call(Hypercall.memory_op, command, self.scratch)

    def mmuext(self, command: MmuExt, mfn: int) -> int:
        self.write(self.scratch, struct.pack(EXTENDED[self.width], command, mfn, 0))
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
