"""One domain's grant table as it lies in its own memory: entries of both versions, status words.

Version 1: 8 bytes an entry, whose flags also tell the owner that it is in use (GTF_reading,
GTF_writing). Version 2: 16 bytes an entry, which may grant part of a frame (to be copied, never
mapped) or pass on what another domain granted; "in use" stands in a table of 16-bit status words
of its own. Both lie in frames that the owner maps and writes as it likes: whatever is read here is
a claim, and the bits are written for the owner's sake only. What is really in use is ``active``.

Invariants:

- as many status frames as the entries of all table frames need in version 2, none in version 1;
- every frame of either kind is the owner's, an ``XEN_HEAP`` one, and holds one writable reference
  of the hypervisor's, so that it never becomes a page table.

How it fails: out of memory, the table stays as it is; a switch of versions that Xen refuses gives
its errno and changes nothing.

Source: xen/grant_table.h; the rules of a switch are those of Xen 4.17.
"""

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from emu.coherence import Coherence
from emu.memory import Memory
from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import (
    GNTTAB_NR_RESERVED_ENTRIES,
    DomId,
    Errno,
    GrantEntryV1,
    GrantEntryV2,
    Gtf,
    size_of,
)
from hypervisor.domain import Domain
from hypervisor.errors import OutOfFrames
from hypervisor.frames import XEN_HEAP, FrameTable, PageType
from hypervisor.paging import Paging

MAX_GRANT_FRAMES: Final = 64
"""Frames of one domain's table, Xen's default."""
MAX_VERSION: Final = 2
ENTRY_SIZE: Final = {1: 8, 2: 16}
"""Bytes of an entry, by version."""
_STATUS_SIZE: Final = 2
STATUSES_PER_FRAME: Final = PAGE_SIZE // _STATUS_SIZE

_V1: Final = struct.Struct("<HHI")
_V2: Final = struct.Struct("<HHHHQ")
_FLAGS: Final = struct.Struct("<H")
_TRANSITIVE: Final = struct.Struct("<4xHxxI4x")
if (_V1.size, _V2.size) != (size_of(GrantEntryV1), size_of(GrantEntryV2)):
    raise TypeError("grant entries are not what _V1 and _V2 say")
_TOOLSTACK: Final = 0
_IN_USE: Final = int(Gtf.reading | Gtf.writing)
_TYPE: Final = int(Gtf.type_mask)
_EBUSY: Final = -int(Errno.EBUSY)
_ENOMEM: Final = -int(Errno.ENOMEM)
_ERANGE: Final = -int(Errno.ERANGE)

HOST_W, HOST_R, DEVICE_W, DEVICE_R = range(4)


class Entry(NamedTuple):
    """What an entry says. ``start`` and ``length``: the bytes of the frame that it grants."""

    flags: int
    domid: int
    frame: int
    start: int = 0
    length: int = PAGE_SIZE
    partial: bool = False
    """Version 2's GTF_sub_page."""
    via_domain: int = 0
    """For GTF_transitive: whose grant is passed on, and by which entry of its table."""
    via_ref: int = 0


@dataclass(slots=True)
class Active:
    """An entry in use: by whom, of which frame, and how often in each of four ways."""

    domid: int
    mfn: MFN
    start: int = 0
    length: int = PAGE_SIZE
    copy_only: bool = False
    """Part of a frame, or somebody else's: it cannot be mapped."""
    pins: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    @property
    def written(self) -> bool:
        """True if somebody may write the frame."""
        return self.pins[HOST_W] + self.pins[DEVICE_W] > 0


@dataclass(slots=True)
class Mapping:
    """What a handle stands for; ``flags`` (GNTMAP_*) lose ``host_map`` and ``device_map``."""

    table: "GrantTable"
    ref: int
    active: Active
    flags: int


class GrantTable:
    """One domain's table and its own mappings of others' frames."""

    def __init__(
        self, owner: Domain, memory: Memory, coherence: Coherence, frames: FrameTable
    ) -> None:
        self.owner = owner
        self.version = 1
        self.frames: list[MFN] = []
        self.status_frames: list[MFN] = []
        self.active: dict[int, Active] = {}
        self.mappings: dict[int, Mapping] = {}
        self.free_handles: deque[int] = deque()
        self.next_handle = 0
        self._memory = memory
        self._coherence = coherence
        self._frame_table = frames

    @property
    def per_frame(self) -> int:
        """Entries in one frame of the table."""
        return PAGE_SIZE // ENTRY_SIZE[self.version]

    @property
    def entries(self) -> int:
        """How many references there are."""
        return max(1, len(self.frames)) * self.per_frame

    @property
    def all_frames(self) -> list[MFN]:
        """Frames of the table and of its status words."""
        return self.frames + self.status_frames

    # -- frames ----------------------------------------------------------------------------

    def grow(self, count: int) -> bool:
        """Have ``count`` frames, at most ``MAX_GRANT_FRAMES``. False: out of memory."""
        missing = max(0, count - len(self.frames))
        missing_status = self._missing_statuses(self.version, max(count, len(self.frames)))
        fresh = self._allocate(missing + missing_status)
        if fresh is None:
            return False
        first = not self.frames
        self.frames.extend(fresh[:missing])
        self.status_frames.extend(fresh[missing:])
        if first and self.frames:
            self._reserve()
        return True

    def _missing_statuses(self, version: int, frames: int) -> int:
        if version < MAX_VERSION:
            return 0
        entries = frames * (PAGE_SIZE // ENTRY_SIZE[version])
        return max(0, -(-entries // STATUSES_PER_FRAME) - len(self.status_frames))

    def _allocate(self, count: int) -> list[MFN] | None:
        frames = self._frame_table
        try:
            fresh = frames.allocate_many(count, DomId.XEN, 0)
        except OutOfFrames:
            return None
        for mfn in fresh:
            # Like shared_info: the domain may map it, and it never becomes a page table.
            frames.owner[mfn] = self.owner.id
            frames.flags[mfn] = XEN_HEAP
            frames.type[mfn] = PageType.WRITABLE
            frames.type_count[mfn] = frames.refs[mfn] = 1
        return fresh

    def _reserve(self) -> None:
        """Grant domain 0 the rings of console (entry 0) and XenStore (1), as a toolstack does."""
        for ref, mfn in enumerate(reversed(self.owner.service_frames)):
            self._store(ref, Entry(int(Gtf.permit_access), _TOOLSTACK, mfn))

    def drop(self, paging: Paging, *, status_only: bool = False) -> None:
        """Give up the table's frames; one that the owner still maps stays until it does not."""
        for mfn in self.status_frames if status_only else self.all_frames:
            self._frame_table.flags[mfn] = 0
            self.owner.pages += 1  # it never counted, and now goes like those that do
            paging.put_table(mfn, self.owner)
        self.status_frames = []
        if not status_only:
            self.frames = []

    # -- entries ---------------------------------------------------------------------------

    def _at(self, ref: int) -> int:
        frame = self.frames[ref // self.per_frame]
        return (frame << PAGE_SHIFT) + ref % self.per_frame * ENTRY_SIZE[self.version]

    def _status_at(self, ref: int) -> int:
        frame = self.status_frames[ref // STATUSES_PER_FRAME]
        return (frame << PAGE_SHIFT) + ref % STATUSES_PER_FRAME * _STATUS_SIZE

    def entry(self, ref: int) -> Entry:
        """Entry ``ref`` as it stands in the owner's memory now."""
        if not self.frames:
            return Entry(0, 0, 0)
        data, at = self._memory.bytes, self._at(ref)
        if self.version == 1:
            return Entry(*_V1.unpack_from(data, at))
        flags, domid, start, length, frame = _V2.unpack_from(data, at)
        if flags & _TYPE == Gtf.transitive:
            via_domain, via_ref = _TRANSITIVE.unpack_from(data, at)
            return Entry(flags, domid, frame, via_domain=via_domain, via_ref=via_ref)
        if flags & Gtf.sub_page:
            return Entry(flags, domid, frame, start, length, partial=True)
        return Entry(flags, domid, frame)

    def passes_on(self, ref: int) -> bool:
        """True if entry ``ref`` passes on what another domain granted."""
        if self.version == 1 or ref >= self.entries:
            return False
        return self.entry(ref).flags & _TYPE == Gtf.transitive

    def _store(self, ref: int, entry: Entry) -> None:
        at = self._at(ref)
        if self.version == 1:
            _V1.pack_into(self._memory.bytes, at, *entry[:3])
        else:
            _V2.pack_into(self._memory.bytes, at, entry.flags, entry.domid, 0, 0, entry.frame)
        self._coherence.wrote(MFN(at >> PAGE_SHIFT))

    def in_use(self, ref: int) -> int:
        """GTF_reading and GTF_writing of an entry, as the owner is told (and may have changed)."""
        if not self.frames:
            return 0
        return int(_FLAGS.unpack_from(self._memory.bytes, self._use_at(ref))[0]) & _IN_USE

    def _use_at(self, ref: int) -> int:
        return self._at(ref) if self.version == 1 else self._status_at(ref)

    def mark(self, ref: int, bits: int = 0, *, clear: int = 0) -> None:
        """Set and clear GTF_reading and GTF_writing where the owner sees them."""
        if not self.frames:
            return
        at = self._use_at(ref)
        (now,) = _FLAGS.unpack_from(self._memory.bytes, at)
        _FLAGS.pack_into(self._memory.bytes, at, (now | bits) & ~clear)
        self._coherence.wrote(MFN(at >> PAGE_SHIFT))

    def exchange(self, a: int, b: int) -> None:
        """Swap two entries, with their status words."""
        if not self.frames:
            return
        places = [(self._at(a), self._at(b), ENTRY_SIZE[self.version])]
        if self.version > 1:
            places.append((self._status_at(a), self._status_at(b), _STATUS_SIZE))
        data = self._memory.bytes
        for one, other, size in places:
            kept = bytes(data[one : one + size])
            data[one : one + size] = bytes(data[other : other + size])
            data[other : other + size] = kept
            self._coherence.wrote(MFN(one >> PAGE_SHIFT))
            self._coherence.wrote(MFN(other >> PAGE_SHIFT))

    # -- versions --------------------------------------------------------------------------

    def set_version(self, version: int, paging: Paging) -> int:
        """Switch to ``version``, which is 1 or 2; all entries but the first eight are lost.

        Returns 0; -EBUSY if one of the others is in use, or if the owner still maps a status
        frame that would go; -ERANGE if one of the eight cannot be said in version 1; -ENOMEM.
        """
        if version == self.version:
            return 0
        if any(ref >= GNTTAB_NR_RESERVED_ENTRIES for ref in self.active):
            return _EBUSY
        kept = [self.entry(ref) for ref in range(GNTTAB_NR_RESERVED_ENTRIES)]
        used = [self.in_use(ref) for ref in range(GNTTAB_NR_RESERVED_ENTRIES)]
        if version > self.version:
            if not self.frames and not self.grow(1):
                return _ENOMEM
            fresh = self._allocate(self._missing_statuses(version, len(self.frames)))
            if fresh is None:
                return _ENOMEM
            self.status_frames = fresh
            kept = [entry._replace(flags=entry.flags & ~_IN_USE) for entry in kept]
        else:
            for entry in kept:
                kind = entry.flags & _TYPE
                wide = kind == Gtf.permit_access and entry.frame >> 32
                if kind == Gtf.transitive or wide:
                    return _ERANGE
            if any(self._frame_table.refs[mfn] > 1 for mfn in self.status_frames):
                return _EBUSY
            kept = [
                entry._replace(flags=entry.flags | use)
                if entry.flags & _TYPE == Gtf.permit_access
                else Entry(0, 0, 0)
                for entry, use in zip(kept, used, strict=True)
            ]
            self.drop(paging, status_only=True)
        self.version = version
        for mfn in self.frames:
            self._memory.zero_frame(mfn)
            self._coherence.wrote(mfn)
        for ref, (entry, use) in enumerate(zip(kept, used, strict=True)):
            self._store(ref, entry)
            if version > 1:
                self.mark(ref, use)
        return 0
