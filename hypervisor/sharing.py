"""Content-based sharing: ``make_ro_and_share``, and the life of a shared frame.

A shared frame belongs to the machine (``DomId.COW``), is mapped read-only by everyone, and is in
the content table. It exists exactly as long as some validated table maps it.

Invariants (the audit checks them; nothing else writes the columns of a shared frame):

- its type is ``SHARED``, its type count and its reference count are both its *sharing count*: the
  number of present L1 entries in validated tables that map it, never 0;
- it is in the content table under the hash of its contents, which nobody can change;
- two shared frames of one sharing group have different contents;
- it is on the account of the domain that entered it (``Domain.entered_alive``), whoever maps it:
  a frame that is entered is no page of the domain's any more, and a guest that enters page after
  page would have all memory, ``max_pages`` or not;
- ``Domain.shared`` says how many of those entries are each domain's: only a domain that maps the
  frame already may map it again, because otherwise guessing MFNs would read others' memory.

Order of a share: look up and refuse; read and hash; compare bytes; make the entry read-only and
point it at the shared frame; merge or enter; free the old frame; flush. The one CPU is in the
hypervisor from the first step until the flush is settled (``emu.coherence``), so that no store can
come between the hash and the merge, and who is refused for the contents' sake keeps the entry as it
was. With a second CPU, read-only and flush would have to come before reading.

The hash is xxh3 with a seed of the machine. It only selects candidates; equality is decided by
comparing all 4,096 bytes. Candidates per hash are bounded (``MAX_CANDIDATES``): a guest that
manages to collide wins frames that are not merged, not the hypervisor's time.

Settings of the machine: sharing groups (``Domain.group`` is part of the key above the hash, so that
groups never meet, not even by collision), zero page only, and
opaque mode, where the guest's frame number changes and the status is 0 whether it merged or not.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

from emu import Machine
from emu.paging import PTE_AVL, PTE_MFN_MASK, PTE_P, PTE_PSE, PTE_RW
from emu.units import ENTRIES, MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId, Errno
from hypervisor.domain import NO_FRAME, Domain
from hypervisor.errors import HypervisorError, OutOfFrames
from hypervisor.frames import ALLOCATED, INVALID_M2P, FrameTable, PageType
from hypervisor.paging import GRANT, Paging

ENTERED: Final = 0
MERGED: Final = 1
MAX_CANDIDATES: Final = 8
"""Frames of equal hash and different contents that are compared before giving up."""

_COW: Final = int(DomId.COW)
_SHARED: Final = int(PageType.SHARED)
_WRITABLE: Final = int(PageType.WRITABLE)
_ZERO: Final = bytes(PAGE_SIZE)
_CLEAR: Final = ~(PTE_RW | PTE_AVL | PTE_MFN_MASK)
_EINVAL: Final = -int(Errno.EINVAL)
_EPERM: Final = -int(Errno.EPERM)
_EBUSY: Final = -int(Errno.EBUSY)
_ENOMEM: Final = -int(Errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class SharingSettings:
    """What the machine allows. ``hash_bits`` < 64 narrows the hash so that tests can collide."""

    seed: int = 0
    zero_only: bool = False
    opaque: bool = False
    hash_bits: int = 64


class Sharing:
    """The content table and every change of a shared frame's count.

    ``entered``, ``merged`` and ``cow_faults`` are counted where they happen, the rarer things by
    name in ``counters``. ``peak_saved``: the most frames that were saved at one moment.
    """

    def __init__(
        self, machine: Machine, frames: FrameTable, paging: Paging, settings: SharingSettings
    ) -> None:
        self._machine = machine
        self._memory = machine.memory
        self._words = machine.memory.words
        self._frames = frames
        self._paging = paging
        self._coherence = machine.coherence
        paging.sharing = self
        self.settings = settings
        self._seed = settings.seed & ((1 << 64) - 1)
        self._mask = (1 << settings.hash_bits) - 1
        self._table: dict[int, MFN | list[MFN]] = {}
        self._keys: dict[MFN, int] = {}
        self._enterers: dict[MFN, int] = {}
        """Shared frame -> the domain that entered it, and whose account it is on while it lives."""
        self._frame_bytes = machine.memory.frame_bytes
        self.entered = 0
        self.merged = 0
        self.cow_faults = 0
        self._tally: Counter[str] = Counter()
        self.mappings = 0
        """Entries that map shared frames, in all domains."""
        self.peak_saved = 0
        self.notify: Callable[..., None] | None = None
        """Called as ``notify(kind, domain, **details)`` for share, again, refuse, map_again and
        drop; a drop that leaves the count at 0 frees the frame."""
        self.dropping = "update"
        """Why references go away just now: ``update`` or ``teardown``."""
        self.left: Callable[[MFN], None] = lambda mfn: None
        """Told of a shared frame that is about to be freed (``blockshare``)."""

    @property
    def saved(self) -> int:
        """Frames that would be in use without sharing, less those that are."""
        return self.mappings - self._frames.shared

    @property
    def counters(self) -> Counter[str]:
        """All counts by name: calls, entered, merged, again, mapped_again, cow_faults, freed,
        refused:REASON, dropped:WHY (``update`` or ``teardown``); block_entered and block_merged of
        blocks of disks, which are no calls.
        """
        refused = sum(n for name, n in self._tally.items() if name.startswith("refused:"))
        calls = self.entered + self.merged + self._tally["again"] + refused
        hot = {
            "calls": calls,
            "entered": self.entered,
            "merged": self.merged,
            "cow_faults": self.cow_faults,
        }
        return Counter({name: n for name, n in (hot | self._tally).items() if n})

    # -- the hypercall ---------------------------------------------------------------------

    def share(self, domain: Domain, table: MFN, index: int, avl: int) -> int:
        """Make the L1 entry read-only and share its frame (design: make_ro_and_share).

        ``table`` is a validated L1 table of ``domain`` and ``avl`` a subset of 0xe00; the caller
        checked both, and afterwards flushes the TLB for the entry and announces the table as
        written. Returns ``ENTERED``, ``MERGED`` or a negative errno with nothing changed.
        """
        words = self._words
        at = table * ENTRIES + index
        entry = words[at]
        if not entry & PTE_P or entry & PTE_PSE:
            return self._refuse(domain, "not_mapped", _EINVAL)
        mfn = MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        frames = self._frames
        owner = frames.owner[mfn]
        if owner == _COW:
            words[at] = (entry & ~PTE_AVL) | avl
            self._tally["again"] += 1
            domain.tally["again"] += 1
            if self.notify is not None:
                self.notify("again", domain, mfn=mfn, table=table, index=index)
            return ENTERED if self.settings.opaque else MERGED
        if owner != domain.id or not frames.flags[mfn] & ALLOCATED or entry & GRANT:
            return self._refuse(domain, "not_owned", _EPERM)
        if frames.refs[mfn] != 1 or frames.type_count[mfn] != (entry & PTE_RW) >> 1:
            special = frames.type_count[mfn] and frames.type[mfn] != _WRITABLE
            return self._refuse(domain, "special" if special else "referenced", _EBUSY)

        contents = self._frame_bytes(mfn)
        if self.settings.zero_only and contents != _ZERO:
            return self._refuse(domain, "not_zero", _EPERM)
        full = domain.entered_alive >= domain.max_pages
        if full and self.settings.opaque:
            return self._refuse(domain, "limit", _ENOMEM)  # whether or not others have it
        key = xxh3_64_intdigest(contents, self._seed) & self._mask | domain.group << 64
        target = self._find(key, contents)
        if target is not None:
            answer = MERGED
        else:
            answer = ENTERED
            if full:
                return self._refuse(domain, "limit", _ENOMEM)
            if self._full(key):
                return self._refuse(domain, "collisions", _EBUSY)
            target = self._fresh_copy(contents) if self.settings.opaque else mfn
            if target is None:
                return self._refuse(domain, "no_memory", _ENOMEM)

        # From here on nothing can fail.
        words[at] = entry & _CLEAR | avl | target << PAGE_SHIFT
        if answer == ENTERED:
            self._enter(target, key, domain)
            self.entered += 1
            domain.entered += 1
        else:
            self.merged += 1
            domain.merged += 1
        self._count_up(target, domain)
        domain.pages -= 1
        if target == mfn:
            frames.set_m2p(mfn, INVALID_M2P)
        else:
            # The old frame: its one reference was this entry's.
            frames.refs[mfn] = 0
            frames.type_count[mfn] = 0
            frames.release(mfn, dirty=contents != _ZERO)
        if self.notify is not None:
            self.notify(
                "share",
                domain,
                status=answer,
                mfn=target,
                old=mfn,
                key=key,
                table=table,
                index=index,
            )
        return ENTERED if self.settings.opaque else answer

    def obtain(self, domain: Domain, contents: bytes) -> tuple[int, MFN]:
        """The shared frame of the domain's group with these contents, which are no frame's yet.

        Returns ``ENTERED`` or ``MERGED`` and the frame, or a negative errno and no frame. A new
        one is not mapped yet: the caller does so at once, and says it by ``mapped``.
        """
        if self.settings.zero_only and contents != _ZERO:
            return self._refuse(domain, "not_zero", _EPERM), NO_FRAME
        key = xxh3_64_intdigest(contents, self._seed) & self._mask | domain.group << 64
        found = self._find(key, contents)
        if found is not None:
            return MERGED, found
        if domain.entered_alive >= domain.max_pages:
            return self._refuse(domain, "limit", _ENOMEM), NO_FRAME
        if self._full(key):
            return self._refuse(domain, "collisions", _EBUSY), NO_FRAME
        fresh = self._fresh_copy(contents)
        if fresh is None:
            return self._refuse(domain, "no_memory", _ENOMEM), NO_FRAME
        self._enter(fresh, key, domain)
        return ENTERED, fresh

    def mapped(self, domain: Domain, mfn: MFN, answer: int, table: MFN, index: int) -> None:
        """An entry maps what ``obtain`` gave, or another shared frame of the domain's group."""
        self._count_up(mfn, domain)
        name = "block_entered" if answer == ENTERED else "block_merged"
        self._tally[name] += 1
        domain.tally[name] += 1
        if self.notify is not None:
            key = self._keys[mfn]
            self.notify(
                "share",
                domain,
                status=answer,
                mfn=mfn,
                old=mfn,
                key=key,
                table=table,
                index=index,
            )

    def refuse_argument(self, domain: Domain) -> int:
        """Count a call whose arguments name no entry; -EINVAL."""
        return self._refuse(domain, "argument", _EINVAL)

    def _refuse(self, domain: Domain, reason: str, errno: int) -> int:
        name = f"refused:{reason}"
        self._tally[name] += 1
        domain.tally[name] += 1
        domain.tally["share_refused"] += 1
        if self.notify is not None:
            self.notify("refuse", domain, reason=reason, errno=errno)
        return errno

    def _fresh_copy(self, contents: bytes) -> MFN | None:
        """A new frame with these contents: in opaque mode the frame changes even when they are
        new, and what comes from a disk is in no frame yet."""
        try:
            fresh = self._frames.allocate(_COW, 0)
        except OutOfFrames:
            return None
        self._memory.frame(fresh)[:] = contents
        self._coherence.wrote(fresh)
        return fresh

    # -- the content table -----------------------------------------------------------------

    def key_of(self, mfn: MFN) -> int | None:
        """The key under which a shared frame is in the table, None if it is not."""
        return self._keys.get(mfn)

    def expected_key(self, mfn: MFN, group: int) -> int:
        """The key that the frame's contents have now, for the audit."""
        contents = self._memory.frame_bytes(mfn)
        return xxh3_64_intdigest(contents, self._seed) & self._mask | group << 64

    def enterers(self) -> dict[MFN, int]:
        """All shared frames and the ids of the domains that entered them, which may be gone."""
        return dict(self._enterers)

    def keyed(self) -> dict[MFN, int]:
        """All shared frames and their keys."""
        return dict(self._keys)

    def candidates(self, key: int) -> tuple[MFN, ...]:
        """The frames in the table under ``key``."""
        chain = self._table.get(key)
        if chain is None:
            return ()
        return tuple(chain) if isinstance(chain, list) else (chain,)

    def _find(self, key: int, contents: bytes) -> MFN | None:
        chain = self._table.get(key)
        if chain is None:
            return None
        if not isinstance(chain, list):
            return chain if self._memory.frame_bytes(chain) == contents else None
        for candidate in chain:
            if self._memory.frame_bytes(candidate) == contents:
                return candidate
        return None

    def _full(self, key: int) -> bool:
        chain = self._table.get(key)
        return isinstance(chain, list) and len(chain) >= MAX_CANDIDATES

    def _enter(self, mfn: MFN, key: int, domain: Domain) -> None:
        self._enterers[mfn] = domain.id
        domain.entered_alive += 1
        chain = self._table.get(key)
        if chain is None:
            self._table[key] = mfn
        elif isinstance(chain, list):
            chain.append(mfn)
        else:
            self._table[key] = [chain, mfn]
        self._keys[mfn] = key
        frames = self._frames
        frames.owner[mfn] = _COW
        frames.flags[mfn] = 0
        frames.type[mfn] = _SHARED
        frames.type_count[mfn] = 0
        frames.refs[mfn] = 0
        frames.shared += 1

    def _leave(self, mfn: MFN) -> None:
        self.left(mfn)
        key = self._keys.pop(mfn)
        enterer = self._paging.domains.get(self._enterers.pop(mfn))
        if enterer is not None:
            enterer.entered_alive -= 1
        chain = self._table[key]
        if isinstance(chain, list):
            chain.remove(mfn)
            if len(chain) == 1:
                self._table[key] = chain[0]
        else:
            del self._table[key]
        self._frames.shared -= 1
        self._frames.release(mfn, dirty=True)
        self._tally["freed"] += 1

    # -- counts ----------------------------------------------------------------------------

    def _count_up(self, mfn: MFN, domain: Domain) -> None:
        frames = self._frames
        frames.refs[mfn] += 1
        frames.type_count[mfn] += 1
        shared = domain.shared
        shared[mfn] = shared.get(mfn, 0) + 1
        domain.shared_mappings = mine = domain.shared_mappings + 1
        if mine > domain.peak_shared_mappings:
            domain.peak_shared_mappings = mine
        self.mappings = mappings = self.mappings + 1
        saved = mappings - frames.shared
        if saved > self.peak_saved:
            self.peak_saved = saved

    def map_again(
        self, mfn: MFN, writable: bool, domain: Domain, manager: Domain | None = None
    ) -> int:
        """An L1 entry is about to map a shared frame a further time.

        Returns 0; -EBUSY if the entry is writable, or if the domain does not map the frame, nor
        does any other of its sharing group that the ``manager`` who asks for it manages.
        """
        if writable or not (mfn in domain.shared or self._known_to(manager, mfn, domain)):
            return _EBUSY
        self._count_up(mfn, domain)
        self._tally["mapped_again"] += 1
        domain.tally["mapped_again"] += 1
        if self.notify is not None:
            self.notify("map_again", domain, mfn=mfn, count=self._frames.refs[mfn])
        return 0

    def _known_to(self, manager: Domain | None, mfn: MFN, domain: Domain) -> bool:
        """True if the shared frame is of ``domain``'s sharing group and one of the domains that
        ``manager`` manages maps it."""
        if manager is None or self._keys[mfn] >> 64 != domain.group:
            return False
        domains = self._paging.domains
        return any(n in domains and mfn in domains[n].shared for n in manager.targets)

    def unmap(self, mfn: MFN, domain: Domain) -> None:
        """An entry that mapped a shared frame is gone; the last one frees the frame."""
        frames = self._frames
        mine = domain.shared.get(mfn, 0)
        if mine == 0 or frames.refs[mfn] == 0:
            raise HypervisorError(f"shared frame {mfn:#x} is unmapped more often than mapped")
        if mine == 1:
            del domain.shared[mfn]
        else:
            domain.shared[mfn] = mine - 1
        domain.shared_mappings -= 1
        self.mappings -= 1
        name = f"dropped:{self.dropping}"
        self._tally[name] += 1
        domain.tally[name] += 1
        frames.refs[mfn] -= 1
        frames.type_count[mfn] -= 1
        left = frames.refs[mfn]
        if self.notify is not None:
            self.notify("drop", domain, mfn=mfn, count=left, why=self.dropping)
        if left == 0:
            self._leave(mfn)

    # -- faults and reports ----------------------------------------------------------------

    def count_fault(self, domain: Domain) -> None:
        """A write hit a shared frame; the guest is about to copy it."""
        self.cow_faults += 1
        domain.cow_faults += 1

    def histogram(self) -> dict[int, int]:
        """Sharing count -> number of shared frames with it, ascending."""
        frames = self._frames
        counts = Counter(frames.refs[mfn] for mfn in self._keys)
        return dict(sorted(counts.items()))

    def saved_by(self, domain: Domain) -> float:
        """A domain's part of ``saved``, in frames: each shared frame is split evenly among the
        entries that map it, as Linux splits a page for its proportional set size. The parts of all
        domains add up to ``saved``.
        """
        refs = self._frames.refs
        return domain.shared_mappings - sum(mine / refs[mfn] for mfn, mine in domain.shared.items())

    def histogram_of(self, domain: Domain) -> dict[int, int]:
        """Sharing count -> frames with it that the domain maps, ascending."""
        refs = self._frames.refs
        return dict(sorted(Counter(refs[mfn] for mfn in domain.shared).items()))
