"""The frame table: what every frame of the machine is, who owns it and how often it is referred to.

One row per frame, in typed columns (a million frames are a 4 GiB machine):

``owner``       domain id; ``DomId.XEN`` the hypervisor, ``DomId.COW`` shared, ``FREE`` nobody
``type``        ``PageType``; means something only while ``type_count`` > 0
``type_count``  references that need the frame to be of that type
``refs``        references that can be enumerated: present entries of validated tables, pins, base
                pointers, descriptor tables
``flags``       ``VALIDATED`` (a page table whose entries hold references), ``PINNED``,
                ``ALLOCATED`` (the owner has not given it back), ``XEN_HEAP`` (the hypervisor's
                own page that the owner may map: shared_info), ``XEN_L2`` (an L2 table of a 32-bit
                guest that holds the hypervisor's slots; while the type counts, as the type)

Types are mutually exclusive while the count is not 0: that is the whole of Xen's memory safety.
A frame goes back to the free list when it is no longer allocated and nothing refers to it.

The machine-to-physical table (M2P) is a guest-readable array in hypervisor frames, one PFN per
frame, all ones where there is none. There are two of it, of 64-bit and of 32-bit entries, which say
the same: guests of each width read theirs.

Source: Xen's asm-x86/mm.h (struct page_info) for the model; Xen keeps the same facts in one word.
"""

from array import array
from enum import IntEnum
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np

from emu import Machine
from emu.units import ENTRIES, MFN, PAGE_SHIFT, PFN
from hypervisor.abi import DomId
from hypervisor.errors import OutOfFrames

if TYPE_CHECKING:
    from numpy.typing import NDArray

FREE: Final = 0xFFFF
"""Owner of a frame on the free list."""
INVALID_M2P: Final = (1 << 64) - 1
_INVALID_M2P32: Final = (1 << 32) - 1

VALIDATED: Final = 1
PINNED: Final = 2
ALLOCATED: Final = 4
XEN_HEAP: Final = 8
XEN_L2: Final = 16


class PageType(IntEnum):
    """What a frame is used as. L1..L4 equal their level."""

    NONE = 0
    L1 = 1
    L2 = 2
    L3 = 3
    L4 = 4
    SEG_DESC = 5
    WRITABLE = 6
    SHARED = 7


class FrameTable:
    """Rows of all frames, and the allocator over them.

    The hypervisor's own frames lie at the bottom of machine memory; domains are given frames from
    the top downwards, so that an MFN and the PFN it stands for differ.
    """

    def __init__(self, machine: Machine) -> None:
        self._memory = machine.memory
        self._wrote = machine.coherence.wrote
        total = machine.memory.frames
        self.total = total
        self.owner = array("H", bytes(2 * total))
        self.type = bytearray(total)
        self.type_count = array("I", bytes(4 * total))
        self.refs = array("I", bytes(4 * total))
        self.flags = bytearray(total)
        self.linear = array("i", bytes(4 * total))
        """Linear mappings: how many entries of this table map a table of its own level (> 0), or
        how many such entries of other tables map this one (< 0). Never both, as in Xen, so that
        dropping a table never recurses through a chain of them."""
        self.owner_column: NDArray[np.uint16] = np.frombuffer(self.owner, dtype=np.uint16)
        self.type_column: NDArray[np.uint8] = np.frombuffer(self.type, dtype=np.uint8)
        self.type_count_column: NDArray[np.uint32] = np.frombuffer(self.type_count, dtype=np.uint32)
        self.refs_column: NDArray[np.uint32] = np.frombuffer(self.refs, dtype=np.uint32)
        self.flags_column: NDArray[np.uint8] = np.frombuffer(self.flags, dtype=np.uint8)
        m2p_frames = (total * 8 + 4095) // 4096
        self.m2p_frames: tuple[MFN, ...] = tuple(MFN(1 + i) for i in range(m2p_frames))
        m2p32_frames = (total * 4 + 4095) // 4096
        self.m2p32_frames: tuple[MFN, ...] = tuple(
            MFN(1 + m2p_frames + i) for i in range(m2p32_frames)
        )
        self._next_reserved = 1 + m2p_frames + m2p32_frames
        self.owner_column[:] = FREE
        self.owner_column[: self._next_reserved] = DomId.XEN
        first_word = self.m2p_frames[0] * ENTRIES
        self._m2p = machine.memory.words[first_word : first_word + total]
        self.m2p_column: NDArray[np.uint64] = machine.memory.array.reshape(-1)[
            first_word : first_word + total
        ]
        self.m2p_column[:] = INVALID_M2P
        first_byte = self.m2p32_frames[0] << PAGE_SHIFT
        self._m2p32 = machine.memory.bytes[first_byte : first_byte + total * 4].cast("I")
        self.m2p32_column: NDArray[np.uint32] = machine.memory.array.reshape(-1).view(np.uint32)[
            first_byte // 4 :
        ][:total]
        self.m2p32_column[:] = _INVALID_M2P32
        self._free: list[int] = list(range(self._next_reserved, total))
        self.scatter: Random | None = None
        """Where set, frames are given in random order. The free list is a stack otherwise, and a
        guest that gave a frame back knows which one comes next: so it can tell whether a frame
        that it gets in opaque sharing is new, or whether one that it left had other users."""
        self.shared = 0
        """Frames owned by ``DomId.COW``."""

    # -- allocation ------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Number of free frames."""
        return len(self._free)

    def allocate(self, owner: int, flags: int = ALLOCATED) -> MFN:
        """One zeroed frame for ``owner``.

        Raises:
            OutOfFrames: machine memory is used up.
        """
        free = self._free
        if not free:
            raise OutOfFrames(1, 0)
        if self.scatter is not None:
            at = self.scatter.randrange(len(free))
            free[at], free[-1] = free[-1], free[at]
        mfn = free.pop()
        self.owner[mfn] = owner
        self.flags[mfn] = flags
        return MFN(mfn)

    def allocate_many(self, count: int, owner: int, flags: int = ALLOCATED) -> list[MFN]:
        """``count`` zeroed frames for ``owner``, all or none.

        Raises:
            OutOfFrames: fewer are free.
        """
        free = self._free
        if count > len(free):
            raise OutOfFrames(count, len(free))
        if count == 0:
            return []
        if self.scatter is not None:
            return [self.allocate(owner, flags) for _ in range(count)]
        taken = free[-count:]
        taken.reverse()
        del free[-count:]
        index = np.array(taken)
        self.owner_column[index] = owner
        self.flags_column[index] = flags
        return [MFN(mfn) for mfn in taken]

    def allocate_extent(
        self, order: int, limit: int, owner: int, flags: int = ALLOCATED
    ) -> list[MFN]:
        """2**order zeroed frames in a row, aligned to their number, all below MFN ``limit``.

        The highest that are free. Slow (it looks at the whole machine): for extents that guests
        ask for, not for single frames.

        Raises:
            OutOfFrames: there is no such row.
        """
        count = 1 << order
        rows = min(limit, self.total) >> order
        row_is_free = (self.owner_column[: rows << order] == FREE).reshape(rows, count).all(axis=1)
        free_rows = np.flatnonzero(row_is_free)
        if not len(free_rows):
            raise OutOfFrames(count, len(self._free))
        first = int(free_rows[-1]) << order
        free = np.array(self._free)
        self._free = free[(free < first) | (free >= first + count)].tolist()
        self.owner_column[first : first + count] = owner
        self.flags_column[first : first + count] = flags
        return [MFN(mfn) for mfn in range(first, first + count)]

    def release(self, mfn: MFN, *, dirty: bool = False) -> None:
        """Put a frame that nothing refers to on the free list, scrubbed.

        Scrubbed means zeroed, and no translated code is left from it: contents and code of one
        domain never reach the next. ``dirty``: the caller knows that it is not zero, and a look
        at it is saved.
        """
        if dirty:
            self._memory.clear_frame(mfn)
        else:
            self._memory.zero_frame(mfn)
        self._wrote(mfn)
        self.owner[mfn] = FREE
        self.flags[mfn] = 0
        self.type[mfn] = 0
        self._m2p[mfn] = INVALID_M2P
        self._m2p32[mfn] = _INVALID_M2P32
        self._free.append(mfn)

    def hypervisor_frame(self) -> MFN:
        """A zeroed frame for the hypervisor's own use.

        Raises:
            OutOfFrames: machine memory is used up.
        """
        return self.allocate(DomId.XEN, 0)

    # -- questions -------------------------------------------------------------------------

    def exists(self, mfn: int) -> bool:
        """True if machine memory has this frame."""
        return 0 <= mfn < self.total

    def owned_by(self, domain: int) -> "NDArray[np.intp]":
        """MFNs that count as pages of ``domain``, ascending."""
        mine = (self.owner_column == domain) & ((self.flags_column & ALLOCATED) != 0)
        return np.flatnonzero(mine)

    def pinned_by(self, domain: int) -> "NDArray[np.intp]":
        """MFNs of the pinned tables of ``domain``, ascending; also those no longer its pages."""
        mine = (self.owner_column == domain) & ((self.flags_column & PINNED) != 0)
        return np.flatnonzero(mine)

    def m2p(self, mfn: MFN) -> PFN:
        """The owner's PFN of a frame, or ``INVALID_M2P``."""
        return PFN(self._m2p[mfn])

    def set_m2p(self, mfn: MFN, pfn: int) -> None:
        """Say which PFN of its owner a frame is (the guest's claim; nothing trusts it)."""
        self._m2p[mfn] = pfn & INVALID_M2P
        self._m2p32[mfn] = pfn & _INVALID_M2P32

    def set_m2p_many(self, mfns: "NDArray[np.uint64]", pfns: "NDArray[np.uint64]") -> None:
        """The same for many frames at once."""
        self.m2p_column[mfns] = pfns
        self.m2p32_column[mfns] = pfns
