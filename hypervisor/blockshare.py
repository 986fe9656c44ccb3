"""Disk blocks shared by reference: several domains that read a block of one image map one frame.

A guest that will only read a block asks its disk to map it (``blkback.Op.READ_SHARED``) instead of
to copy it into a page of its own. The first time the block becomes a shared frame like any other
(``sharing``), by its contents; from then on, and as long as somebody maps it, ``BlockSharing``
knows which frame holds that block. Whoever asks for the block next, in the same sharing group, gets
the frame without the file being read, anything copied, hashed or compared, and without ever having
had a page for it. A write faults as any write to a shared page does.

Only blocks that are the file's own are remembered: none of an image that is written to (``:rw``),
none that the domain has written in its copy; a block that some other domain writes through to the
file is forgotten. The file itself must not change during a run, as for everything else that is read
from it.

Invariants: a remembered frame is shared and holds what the block holds; a frame that is freed is
forgotten first. At most ``MAX_NAMES`` blocks are remembered per frame, so that a disk full of equal
blocks costs no more than its frames.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emu.paging import PTE_A, PTE_AVL, PTE_NX, PTE_P, PTE_US
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, VA
from hypervisor.abi import Errno
from hypervisor.domain import Domain
from hypervisor.paging import GUEST_KERNEL
from hypervisor.sharing import MERGED

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

Block = tuple[tuple[int, int], int]
"""A file (``DiskImage.identity``) and the number of a block in it."""
MAX_NAMES: Final = 64
MAY_SET: Final = PTE_US | PTE_AVL
"""Bits that the low 12 of an address may set in the entry."""
_EINVAL: Final = -int(Errno.EINVAL)


class BlockSharing:
    """Which shared frame holds which block of which image."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._frames: dict[Block, dict[int, MFN]] = {}
        """By block and sharing group."""
        self._names: dict[MFN, list[tuple[Block, int]]] = {}
        hv.sharing.left = self._left

    def known(self, domain: Domain, block: Block) -> MFN | None:
        """The shared frame that holds a block, for this domain's group."""
        return self._frames.get(block, {}).get(domain.group)

    def check(self, domain: Domain, target: int) -> bool:
        """True if ``target``, an address and bits of its entry, names an entry of the domain's."""
        if target & PAGE_MASK & ~MAY_SET:
            return False
        return self._hv.paging.find_l1(domain, target & ~PAGE_MASK) is not None

    def map(
        self, domain: Domain, target: int, block: Block | None, read: Callable[[], bytes]
    ) -> int:
        """Map a block at ``target`` read-only, in place of whatever is mapped there.

        ``block``: None if it must not be remembered. ``read`` gives its 4,096 bytes. Returns 0 or
        a negative errno with nothing changed, or raises what ``read`` does.
        """
        va = target & ~PAGE_MASK
        found = self._hv.paging.find_l1(domain, va)
        if found is None or target & PAGE_MASK & ~MAY_SET:
            return _EINVAL
        table, index, only = found
        paging, sharing = self._hv.paging, self._hv.sharing
        known = None if block is None else self.known(domain, block)
        if known is not None:
            answer, mfn = MERGED, known
            domain.tally["shared_by_reference"] += 1
            self._hv.counters["shared_by_reference"] += 1
        else:
            answer, mfn = sharing.obtain(domain, read())
            if answer < 0:
                return answer
        entry = mfn << PAGE_SHIFT | self._flags(domain, target & MAY_SET)
        old = paging.replace_l1e(table, index, VA(va) if only else None, entry)
        sharing.mapped(domain, mfn, answer, table, index)
        paging.put_l1e(old, domain)
        if known is None and block is not None:
            self._remember(mfn, block, domain.group)
        return 0

    @staticmethod
    def _flags(domain: Domain, asked: int) -> int:
        flags = PTE_P | PTE_A | PTE_NX | asked
        if domain.width == 64 and not asked & PTE_US:
            flags |= PTE_US | GUEST_KERNEL
        return flags

    def _remember(self, mfn: MFN, block: Block, group: int) -> None:
        names = self._names.setdefault(mfn, [])
        if len(names) < MAX_NAMES:
            names.append((block, group))
            self._frames.setdefault(block, {})[group] = mfn

    def forget(self, block: Block) -> None:
        """A block was written: whoever maps it keeps what it has, nobody gets it any more."""
        for group, mfn in self._frames.pop(block, {}).items():
            self._names[mfn].remove((block, group))

    def _left(self, mfn: MFN) -> None:
        for block, group in self._names.pop(mfn, ()):
            groups = self._frames[block]
            del groups[group]
            if not groups:
                del self._frames[block]

    def remembered(self) -> list[tuple[Block, int, MFN]]:
        """Everything that is known: block, group, frame."""
        return [
            (block, group, mfn)
            for block, groups in self._frames.items()
            for group, mfn in groups.items()
        ]
