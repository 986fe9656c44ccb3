"""The oracle: what could be shared at a moment, counted over all frames of the machine.

A *page* here is a present entry of a validated L1 table of a client domain that maps memory; so a
frame that two processes map is two pages. Not counted are page tables, descriptor pages, pages of
the hypervisor, the boot module (it stands for the disk), and frames with references other than
such entries (rings that the other end holds). What is counted is what each guest sees; sharing
changes only how many frames are behind it:

    saved    = pages - frames behind them
    possible = pages - distinct contents

Equality is that of 128-bit hashes (xxh3): two contents that collide would be taken to be equal,
with a probability of 2**-128 for a pair.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from xxhash import xxh3_128_digest

from emu.paging import PTE_MFN_MASK, PTE_P
from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId
from hypervisor.frames import VALIDATED, XEN_HEAP, PageType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hypervisor.domain import Domain
    from hypervisor.hypervisor import Hypervisor

_ZERO: Final = xxh3_128_digest(bytes(PAGE_SIZE))
_TABLES: Final = (PageType.L1, PageType.L2, PageType.L3, PageType.L4, PageType.SEG_DESC)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Numbers of 4 KiB pages at one moment."""

    pages: int
    frames: int
    distinct: int
    zero_pages: int
    """Pages that are zeros, whatever is behind them."""
    zero_frames: int
    inside: int
    """What could be saved if domains were looked at one by one: equal pages within each."""
    overhead: int = 0
    """Frames that helper domains own, beyond what clients see of them."""

    @property
    def saved(self) -> int:
        """Frames that would be in use without sharing, less those that are."""
        return self.pages - self.frames

    @property
    def possible(self) -> int:
        """What perfect sharing would save."""
        return self.pages - self.distinct

    @property
    def possible_without_zero(self) -> int:
        """The same, were there no pages of zeros."""
        return self.possible - max(0, self.zero_pages - 1)

    @property
    def saved_without_zero(self) -> int:
        """Saved frames that are not pages of zeros."""
        return self.saved - (self.zero_pages - self.zero_frames)


def _entries(hv: "Hypervisor") -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """(owner of the table, frame) of all present entries of validated L1 tables."""
    frames = hv.frames
    mask = (frames.type_column == PageType.L1) & ((frames.flags_column & VALIDATED) != 0)
    tables = np.flatnonzero(mask & (frames.type_count_column > 0))
    values = hv.machine.memory.array[tables]
    rows, _ = present = np.nonzero((values & np.uint64(PTE_P)) != 0)
    mfns = ((values[present] & np.uint64(PTE_MFN_MASK)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    return frames.owner_column[tables][rows].astype(np.int64), mfns


def snapshot(
    hv: "Hypervisor",
    clients: Iterable["Domain"],
    helpers: Iterable["Domain"] = (),
    disk: Collection[int] = (),
) -> Snapshot:
    """Count now. ``disk``: frames of the boot modules."""
    frames = hv.frames
    client_ids = [domain.id for domain in clients]
    helper_ids = [domain.id for domain in helpers]
    owners, mfns = _entries(hv)
    inside = mfns < frames.total
    owners, mfns = owners[inside], mfns[inside]
    refs = np.bincount(mfns, minlength=frames.total)
    memory = np.isin(frames.owner_column, [*client_ids, *helper_ids, int(DomId.COW)])
    memory &= (frames.flags_column & XEN_HEAP) == 0
    memory &= ~((frames.type_count_column > 0) & np.isin(frames.type_column, _TABLES))
    memory &= frames.refs_column == refs
    if disk:
        memory[np.fromiter(disk, dtype=np.int64)] = False
    seen = np.isin(owners, client_ids) & memory[mfns]
    owners, mfns = owners[seen], mfns[seen]

    unique, pages_of = np.unique(mfns, return_counts=True)
    frame_bytes = hv.machine.memory.frame_bytes
    digests = {mfn: xxh3_128_digest(frame_bytes(MFN(mfn))) for mfn in unique.tolist()}
    zero = [mfn for mfn, digest in digests.items() if digest == _ZERO]
    counts = dict(zip(unique.tolist(), pages_of.tolist(), strict=True))
    own = sum(
        len(mine) - len({digests[mfn] for mfn in mine})
        for mine in (mfns[owners == number].tolist() for number in client_ids)
    )
    owned = sum(hv.domains[number].pages for number in helper_ids if number in hv.domains)
    backing = int(np.isin(frames.owner_column[unique], helper_ids).sum())
    return Snapshot(
        pages=len(mfns),
        frames=len(unique),
        distinct=len(set(digests.values())),
        zero_pages=sum(counts[mfn] for mfn in zero),
        zero_frames=len(zero),
        inside=own,
        overhead=owned - backing,
    )
