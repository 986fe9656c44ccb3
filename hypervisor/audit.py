"""The audit: does what the hypervisor keeps agree with what can be counted?

It enumerates every reference from scratch (entries of validated tables, pins, base pointers,
descriptor tables) and compares with the frame table, the content table and the domains' own
counts. It shares no code with what maintains them. An empty list means that the invariants of the
design hold; each violation names frames and entries.

1. A frame's reference and type counts equal what can be enumerated.
2. No present writable entry maps a shared frame, a page table, a descriptor page or a hypervisor
   frame; no entry maps another domain's frame without its grant (unless the table's domain is
   privileged).
3. A shared frame's contents hash to its key; no two of one group have the same contents.
4. A shared frame's count is the number of entries that map it, and is never 0.
5. Owned + shared + free + hypervisor = all frames; each domain's page count is what it owns; the
   M2P names a PFN for no frame that is nobody's, and both widths' M2P say the same.
Two more cannot be counted from here: that no TLB entry outlives its rights (6; see
``emu.coherence`` and its tests) and what a guest reads (7; the guests check it themselves).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from emu.paging import PTE_MFN_MASK, PTE_P, PTE_RW
from emu.units import ENTRIES, MFN, PAGE_SHIFT
from hypervisor.abi import (
    L2_FIRST_XEN_SLOT_PAE,
    L3_ENTRIES_PAE,
    L3_XEN_SLOT_PAE,
    L4_FIRST_XEN_SLOT,
    L4_LAST_XEN_SLOT,
    DomId,
)
from hypervisor.domain import NO_FRAME
from hypervisor.frames import (
    ALLOCATED,
    FREE,
    INVALID_M2P,
    PINNED,
    VALIDATED,
    XEN_HEAP,
    XEN_L2,
    PageType,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hypervisor.hypervisor import Hypervisor

MAX_REPORTED: Final = 20
"""Violations of one kind that are listed one by one."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: its number in the design, and what is wrong where."""

    invariant: int
    text: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Entries:
    """All present entries of the validated tables of one level, as parallel columns."""

    level: int
    table: "NDArray[np.int64]"
    index: "NDArray[np.int64]"
    value: "NDArray[np.uint64]"
    mfn: "NDArray[np.int64]"


def audit(hv: "Hypervisor") -> list[Violation]:
    """Check the invariants over the whole machine; violations, none if all is well."""
    levels = [_entries(hv, level) for level in (1, 2, 3, 4)]
    found: list[Violation] = []
    for check in (
        _counts,
        _writable,
        _linear,
        _pae,
        _granted,
        _shared_contents,
        _shared_counts,
        _ownership,
    ):
        found.extend(check(hv, levels))
    return found


def _entries(hv: "Hypervisor", level: int) -> _Entries:
    frames = hv.frames
    mask = (frames.type_column == level) & ((frames.flags_column & VALIDATED) != 0)
    tables = np.flatnonzero(mask)
    values = hv.machine.memory.array[tables]
    present = (values & np.uint64(PTE_P)) != 0
    if level == PageType.L4:
        present[:, L4_FIRST_XEN_SLOT : L4_LAST_XEN_SLOT + 1] = False
    elif level == PageType.L2:
        with_slots = (frames.flags_column[tables] & XEN_L2) != 0
        present[with_slots, L2_FIRST_XEN_SLOT_PAE:] = False
    row, index = np.nonzero(present)
    value = values[row, index]
    mfn = ((value & np.uint64(PTE_MFN_MASK)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    return _Entries(level, tables[row].astype(np.int64), index.astype(np.int64), value, mfn)


def _limited(texts: list[str], invariant: int) -> Iterator[Violation]:
    for text in texts[:MAX_REPORTED]:
        yield Violation(invariant, text)
    if len(texts) > MAX_REPORTED:
        yield Violation(invariant, f"... and {len(texts) - MAX_REPORTED} more of this kind")


def _counts(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    frames = hv.frames
    refs = np.zeros(frames.total, dtype=np.int64)
    types = np.zeros(frames.total, dtype=np.int64)
    outside: list[str] = []
    for entries in levels:
        inside = entries.mfn < frames.total
        for i in np.flatnonzero(~inside):
            outside.append(_at(entries, int(i)) + " maps a frame that does not exist")
        counted = inside
        if entries.level > 1:
            counted = inside & (entries.mfn != entries.table)  # a table's entry for itself
        np.add.at(refs, entries.mfn[counted], 1)
        if entries.level == 1:
            writable = counted & ((entries.value & np.uint64(PTE_RW)) != 0)
            shared = counted & (frames.owner_column[np.where(inside, entries.mfn, 0)] == DomId.COW)
            np.add.at(types, entries.mfn[writable | shared], 1)
        else:
            np.add.at(types, entries.mfn[counted], 1)
    pinned = np.flatnonzero(frames.flags_column & PINNED)
    np.add.at(refs, pinned, 1)
    np.add.at(types, pinned, 1)
    for domain in hv.domains.values():
        held = [*domain.base_tables, domain.shared_info]
        held += [domain.vcpu_info_frame] if domain.vcpu_info_frame != NO_FRAME else []
        held += [*domain.gdt_frames, *domain.ldt_frames.values()]
        for mfn in (*held, *domain.service_frames):
            refs[mfn] += 1
            types[mfn] += 1
    for mfn, writable in hv.grants.references():
        refs[mfn] += 1
        types[mfn] += writable
    yield from _limited(outside, 1)
    for name, counted_column, kept in (
        ("references", refs, frames.refs_column),
        ("type references", types, frames.type_count_column),
    ):
        wrong = np.flatnonzero(counted_column != kept)
        yield from _limited(
            [
                f"frame {mfn:#x} ({_describe(hv, int(mfn))}) has {kept[mfn]} {name}, "
                f"{counted_column[mfn]} can be enumerated"
                for mfn in wrong.tolist()
            ],
            1,
        )


def _at(entries: _Entries, i: int) -> str:
    return (
        f"entry {entries.index[i]:#x} of L{entries.level} table {entries.table[i]:#x} "
        f"({int(entries.value[i]):#x})"
    )


def _describe(hv: "Hypervisor", mfn: int) -> str:
    frames = hv.frames
    owner = frames.owner[mfn]
    names = {FREE: "free", int(DomId.XEN): "hypervisor", int(DomId.COW): "shared"}
    kind = PageType(frames.type[mfn]).name
    return f"{names.get(owner, f'd{owner}')}, {kind}"


def _writable(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    frames = hv.frames
    entries = levels[0]
    writable = (entries.value & np.uint64(PTE_RW)) != 0
    ok = entries.mfn < frames.total
    target = np.where(ok, entries.mfn, 0)
    owner = frames.owner_column[target].astype(np.int64)
    special = (frames.type_count_column[target] != 0) & (
        frames.type_column[target] != PageType.WRITABLE
    )
    system = np.isin(owner, (int(DomId.COW), int(DomId.XEN), FREE))
    bad = np.flatnonzero(writable & ok & (special | system))
    yield from _limited(
        [
            f"{_at(entries, int(i))} is writable and maps frame {target[i]:#x} "
            f"({_describe(hv, int(target[i]))})"
            for i in bad
        ],
        2,
    )


def _pae(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    """What of the hypervisor a 32-bit guest has mapped: the M2P, read-only, at its place."""
    frames, words = hv.frames, hv.machine.memory.words
    texts = []
    expected = [hv.paging.top.slots_pae.get(i, 0) for i in range(L2_FIRST_XEN_SLOT_PAE, ENTRIES)]
    for mfn in np.flatnonzero(frames.flags_column & XEN_L2).tolist():
        at = mfn * ENTRIES
        if words[at + L2_FIRST_XEN_SLOT_PAE : at + ENTRIES].tolist() != expected:
            texts.append(f"L2 table {mfn:#x} has wrong hypervisor's slots")
    l3 = levels[2]
    for i, mfn in enumerate(l3.mfn.tolist()):
        owner = hv.domains.get(int(frames.owner_column[l3.table[i]]))
        special = bool(frames.flags[mfn] & XEN_L2)
        if owner is None or owner.width == 64:
            if special:
                texts.append(f"{_at(l3, i)} of no 32-bit guest maps an L2 table of one")
        elif l3.index[i] >= L3_ENTRIES_PAE or special != (l3.index[i] == L3_XEN_SLOT_PAE):
            texts.append(f"{_at(l3, i)} of a 32-bit guest is not where it may be")
    for domain in hv.domains.values():
        if domain.width == 64:
            continue
        table = domain.table * ENTRIES
        lower = [i for i in range(L4_FIRST_XEN_SLOT) if words[table + i] & PTE_P]
        if lower != [0] * bool(domain.l3):
            texts.append(f"{domain.label}: its hidden L4 table maps {lower}")
    yield from _limited(texts, 2)


def _granted(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    """Another domain's frame is mapped as often as its owner's grants say, and no more."""
    frames = hv.frames
    entries = levels[0]
    ok = entries.mfn < frames.total
    target = np.where(ok, entries.mfn, 0)
    owner = frames.owner_column[target].astype(np.int64)
    table_owner = frames.owner_column[entries.table].astype(np.int64)
    privileged = [d.id for d in hv.domains.values() if d.privileged]
    foreign = (owner != table_owner) & (owner != DomId.COW) & ~np.isin(table_owner, privileged)
    for manager in hv.domains.values():
        if manager.targets:
            foreign &= (table_owner != manager.id) | ~np.isin(owner, list(manager.targets))
    allowed = hv.grants.host_mappings()
    texts = []
    for i in np.flatnonzero(ok & foreign).tolist():
        writable = bool(int(entries.value[i]) & PTE_RW)
        key = (int(table_owner[i]), int(target[i]), writable)
        allowed[key] -= 1
        if allowed[key] < 0:
            texts.append(
                f"{_at(entries, i)} maps frame {target[i]:#x} ({_describe(hv, int(target[i]))}) "
                "without a grant"
            )
    yield from _limited(texts, 2)


def _linear(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    """Through a writable entry for a table of its own level, tables could be written as pages."""
    types = hv.frames.type_column
    texts = []
    for entries in levels[1:]:
        writable = (entries.value & np.uint64(PTE_RW)) != 0
        ok = entries.mfn < hv.frames.total
        bad = writable & ok & (types[np.where(ok, entries.mfn, 0)] == entries.level)
        texts += [
            f"{_at(entries, int(i))} is writable and maps a table of its own level"
            for i in np.flatnonzero(bad)
        ]
    yield from _limited(texts, 2)


def _shared_contents(hv: "Hypervisor", _levels: list[_Entries]) -> Iterator[Violation]:
    sharing, frames = hv.sharing, hv.frames
    keyed = sharing.keyed()
    texts = []
    seen: dict[tuple[int, bytes], MFN] = {}
    for mfn, key in keyed.items():
        group = key >> 64
        if sharing.expected_key(mfn, group) != key:
            texts.append(f"shared frame {mfn:#x} does not hash to its key")
        if mfn not in sharing.candidates(key):
            texts.append(f"shared frame {mfn:#x} is not in the content table under its key")
        contents = (group, hv.machine.memory.frame_bytes(mfn))
        if contents in seen:
            texts.append(f"shared frames {seen[contents]:#x} and {mfn:#x} have equal contents")
        seen[contents] = mfn
    for (_, number), group, mfn in hv.disks.blocks.remembered():
        key_of_block = keyed.get(mfn)
        if key_of_block is None or key_of_block >> 64 != group:
            texts.append(f"frame {mfn:#x}, remembered for block {number} of a disk, is not shared")
    owned = set(np.flatnonzero(frames.owner_column == DomId.COW).tolist())
    for mfn_number in sorted(owned ^ set(keyed)):
        texts.append(f"frame {mfn_number:#x} is shared but not keyed, or keyed but not shared")
    yield from _limited(texts, 3)


def _shared_counts(hv: "Hypervisor", levels: list[_Entries]) -> Iterator[Violation]:
    frames, sharing = hv.frames, hv.sharing
    entries = levels[0]
    ok = entries.mfn < frames.total
    target = np.where(ok, entries.mfn, 0)
    to_shared = ok & (frames.owner_column[target] == DomId.COW)
    texts = []
    maps = np.bincount(target[to_shared], minlength=frames.total)
    for mfn in sharing.keyed():
        if maps[mfn] == 0:
            texts.append(f"shared frame {mfn:#x} is mapped by nobody")
        if maps[mfn] != frames.refs[mfn] or frames.type[mfn] != PageType.SHARED:
            texts.append(f"shared frame {mfn:#x} counts {frames.refs[mfn]}, {maps[mfn]} map it")
    entered = Counter(sharing.enterers().values())
    if sharing.enterers().keys() != sharing.keyed().keys():
        texts.append("the accounts of shared frames are not those of the content table")
    table_owner = frames.owner_column[entries.table]
    for domain in hv.domains.values():
        mine = to_shared & (table_owner == domain.id)
        numbers, counts = np.unique(target[mine], return_counts=True)
        counted = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        if domain.entered_alive != entered[domain.id]:
            texts.append(
                f"{domain.label}: {domain.entered_alive} frames on its account, "
                f"{entered[domain.id]} that it entered"
            )
        if counted != domain.shared or domain.shared_mappings != sum(counted.values()):
            texts.append(f"{domain.label}: its record of shared frames differs from its tables")
        for mfn in counted:
            if (key := sharing.key_of(MFN(mfn))) is not None and key >> 64 != domain.group:
                texts.append(f"{domain.label} maps shared frame {mfn:#x} of another sharing group")
    total = int(to_shared.sum())
    if sharing.mappings != total:
        texts.append(f"{sharing.mappings} shared mappings counted, {total} exist")
    if frames.shared != len(sharing.keyed()):
        texts.append(f"{frames.shared} shared frames counted, {len(sharing.keyed())} keyed")
    yield from _limited(texts, 4)


def _ownership(hv: "Hypervisor", _levels: list[_Entries]) -> Iterator[Violation]:
    frames = hv.frames
    owner, flags = frames.owner_column, frames.flags_column
    texts = []
    free = int((owner == FREE).sum())
    if free != frames.free:
        texts.append(f"{frames.free} frames on the free list, {free} without an owner")
    known = {int(DomId.XEN), int(DomId.COW), FREE} | set(hv.domains)
    # What a privileged domain maps of one that is gone is freed when it lets go of it.
    held = (flags == 0) & (frames.refs_column != 0)
    for stranger in sorted(set(np.unique(owner[~held]).tolist()) - known):
        mine = np.flatnonzero(owner == stranger)
        texts.append(f"{len(mine)} frames belong to d{stranger}, which does not exist")
    for domain in hv.domains.values():
        mine = owner == domain.id
        counted = int((mine & ((flags & XEN_HEAP) == 0)).sum())
        if counted != domain.pages:
            texts.append(f"{domain.label} counts {domain.pages} pages and owns {counted}")
        loose = mine & ((flags & (ALLOCATED | XEN_HEAP)) == 0) & (frames.refs_column == 0)
        if loose.any():
            texts.append(f"{domain.label} keeps {int(loose.sum())} frames that nothing refers to")
    idle = (owner == FREE) & (
        (flags != 0) | (frames.refs_column != 0) | (frames.type_count_column != 0)
    )
    for mfn in np.flatnonzero(idle).tolist():
        texts.append(f"free frame {mfn:#x} still has flags or references")
    nobodys = (owner == FREE) | (owner == DomId.COW)
    for mfn in np.flatnonzero(nobodys & (frames.m2p_column != INVALID_M2P)).tolist():
        texts.append(f"frame {mfn:#x} is no domain's and still has a PFN in the M2P")
    differing = frames.m2p_column.astype(np.uint32) != frames.m2p32_column
    for mfn in np.flatnonzero(differing).tolist():
        texts.append(
            f"the M2P says {frames.m2p32_column[mfn]:#x} of frame {mfn:#x} to 32-bit guests"
        )
    yield from _limited(texts, 5)
