"""Views of translation and of frames: ``walk``, ``pt``, ``frame``, ``shared``.

Each makes text of what there is now and changes nothing. Frames are described in the words of the
design: owner, type, type count, reference count. No table is trusted: frames that
do not exist are said not to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_hexdigest

from emu.debug.tree import DEFAULT_LIMIT, tree_lines
from emu.mappings import Mapping
from emu.paging import PTE_AVL, describe_entry
from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from emu.walk import Access, Walk
from hypervisor.abi import L4_FIRST_XEN_SLOT, L4_LAST_XEN_SLOT, DomId
from hypervisor.debug.mappings import MAX_FOUND, entries_of, reach, role_of
from hypervisor.debug.space import Space
from hypervisor.domain import NO_FRAME
from hypervisor.frames import (
    ALLOCATED,
    FREE,
    INVALID_M2P,
    PINNED,
    VALIDATED,
    XEN_HEAP,
    PageType,
)

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_ZERO: Final = bytes(PAGE_SIZE)
_FLAGS: Final = (
    (VALIDATED, "validated"),
    (PINNED, "pinned"),
    (ALLOCATED, "allocated"),
    (XEN_HEAP, "the hypervisor's own that the domain may map"),
)
_XEN_SLOTS: Final = range(L4_FIRST_XEN_SLOT, L4_LAST_XEN_SLOT + 1)
_MOST_DOMAINS: Final = 6


# --- frames in one line --------------------------------------------------------------------


def owner_text(hv: "Hypervisor", owner: int) -> str:
    """Who an owner's number is."""
    names = {FREE: "nobody (free)", int(DomId.XEN): "the hypervisor", int(DomId.COW): "shared"}
    domain = hv.domains.get(owner)
    if domain is not None:
        return domain.label
    return names.get(owner, f"d{owner}, which is gone")


def frame_text(hv: "Hypervisor", mfn: int) -> str:
    """What a frame is, in a few words: ``d1 share, L1, 12 references``."""
    frames = hv.frames
    if not frames.exists(mfn):
        return "no such frame"
    owner = frames.owner[mfn]
    if owner == FREE:
        return "free"
    if owner == DomId.COW:
        return f"shared by {_many(frames.refs[mfn], 'entry', 'entries')}"
    words = [owner_text(hv, owner)]
    if frames.type_count[mfn]:
        words.append(PageType(frames.type[mfn]).name)
    return ", ".join(words)


def _many(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


# --- walk ----------------------------------------------------------------------------------


def walk_view(space: Space, va: int, access: Access) -> str:
    """The walk of one address, level by level, every bit named, and what its frames are."""
    if space.table == NO_FRAME:
        return f"{space.domain.label} has no page table"
    path = space.walk(va, access)
    lines = path.explain().splitlines()
    symbol = space.symbol(va)
    if symbol:
        lines[0] += f"  <{symbol}>"
    # One line for each step stands behind the title.
    for place, step in enumerate(path.steps, 1):
        hidden = step.level == 4 and space.hides_top
        lines[place] += "  [hidden from the guest]" if hidden else ""
    mfn = _reached(path)
    if mfn is not None:
        lines.append(f"  frame {mfn:#x}: {frame_text(space.hv, mfn)}")
    lines += _sharing_advice(space, path)
    return "\n".join(lines)


def _reached(path: Walk) -> int | None:
    """The frame that the leaf names, also where rights are denied."""
    leaf = path.leaf
    if leaf is None:
        return path.mfn
    return (leaf.entry & ((1 << 52) - 1)) >> PAGE_SHIFT


def _sharing_advice(space: Space, path: Walk) -> list[str]:
    """Why a write to a shared page fails, in the words of sharing."""
    mfn, leaf = _reached(path), path.leaf
    if path.fault is None or leaf is None or mfn is None or not path.access.write:
        return []
    frames = space.hv.frames
    if not frames.exists(mfn) or frames.owner[mfn] != DomId.COW:
        return []
    avl = (leaf.entry & PTE_AVL) >> 9
    mark = f"AVL={avl:#x} marks it" if avl else "no AVL bit marks it"
    return [f"  the page is shared: the guest is to copy it ({mark})"]


# --- pt ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which leaves ``pt`` shows; None and False: all. ``avl``: these bits set (1..7), 0: any."""

    writable: bool | None = None
    user: bool | None = None
    executable: bool | None = None
    shared: bool = False
    avl: int | None = None
    start: int = 0
    end: int = 1 << 64
    all: bool = False
    """Also the hypervisor's own slots."""
    limit: int = DEFAULT_LIMIT

    def takes(self, hv: "Hypervisor") -> Callable[[Mapping], bool]:
        """The filter as a predicate."""

        def select(item: Mapping) -> bool:
            rights = item.rights
            if self.writable is not None and rights.write is not self.writable:
                return False
            if self.user is not None and rights.user is not self.user:
                return False
            if self.executable is not None and rights.execute is not self.executable:
                return False
            if self.avl is not None:
                avl = (item.entry & PTE_AVL) >> 9
                if not avl or avl & self.avl != self.avl:
                    return False
            return not self.shared or _is_shared(hv, item.mfn)

        return select


def _is_shared(hv: "Hypervisor", mfn: int) -> bool:
    return hv.frames.exists(mfn) and hv.frames.owner[mfn] == DomId.COW


def tree_view(space: Space, wanted: Filter) -> str:
    """The folded tree of the address space in use."""
    hv, domain = space.hv, space.domain
    if space.table == NO_FRAME:
        return f"{domain.label} has no page table"

    def note(item: Mapping) -> str:
        if not hv.frames.exists(item.mfn):
            return "no such frame"
        owner = hv.frames.owner[item.mfn]
        if owner == domain.id:
            kind = hv.frames.type[item.mfn] if hv.frames.type_count[item.mfn] else 0
            return "" if kind in (PageType.NONE, PageType.WRITABLE) else PageType(kind).name
        return owner_text(hv, owner)

    lines = tree_lines(
        hv.machine.memory,
        space.cr3,
        controls=space.controls,
        start=wanted.start,
        end=min(wanted.end, space.end),
        skip_slots=() if wanted.all or space.hides_top else _XEN_SLOTS,
        select=wanted.takes(hv),
        note=note,
        limit=wanted.limit,
    )
    found = list(lines)
    if len(found) == 1:
        found.append("nothing is mapped so")
    return "\n".join(found)


# --- frame ---------------------------------------------------------------------------------


def frame_view(hv: "Hypervisor", mfn: int) -> str:
    """Everything about a frame, every mapping of it in every domain among it."""
    frames = hv.frames
    if not frames.exists(mfn):
        return f"frame {mfn:#x}: this machine has frames 0..{frames.total - 1:#x}"
    number = MFN(mfn)
    owner = frames.owner[mfn]
    pfn = frames.m2p(number)
    kind = PageType(frames.type[mfn]).name if frames.type_count[mfn] else "none"
    lines = [f"frame {mfn:#x}  machine address {mfn << PAGE_SHIFT:#x}"]
    lines.append(f"  owner           {owner_text(hv, owner)}")
    if pfn != INVALID_M2P:
        lines.append(f"  PFN             {pfn:#x}")
    lines.append(f"  type            {kind}, type count {frames.type_count[mfn]}")
    lines.append(f"  references      {frames.refs[mfn]}")
    flags = [text for bit, text in _FLAGS if frames.flags[mfn] & bit]
    if flags:
        lines.append(f"  flags           {', '.join(flags)}")
    lines.append(f"  contents        {_contents(hv, number)}")
    lines += _mappings(hv, number)
    lines += [f"  also            {text}" for text in _other_references(hv, number)]
    return "\n".join(lines)


def _contents(hv: "Hypervisor", mfn: MFN) -> str:
    data = hv.machine.memory.frame_bytes(mfn)
    text = f"xxh3 {xxh3_64_hexdigest(data)}"
    if data == _ZERO:
        text += ", all zero"
    elif data == data[:8] * (PAGE_SIZE // 8):
        text += f", {int.from_bytes(data[:8], 'little'):#018x} repeated"
    owner = hv.frames.owner[mfn]
    if owner == DomId.COW:
        key = hv.sharing.key_of(mfn)
        return text if key is None else f"{text}; in the content table of group {key >> 64}"
    domain = hv.domains.get(owner)
    if domain is not None:
        for other in hv.sharing.candidates(hv.sharing.expected_key(mfn, domain.group)):
            if hv.machine.memory.frame_bytes(other) == data:
                text += f"; equal to shared frame {other:#x}"
    return text


def _mappings(hv: "Hypervisor", mfn: MFN) -> list[str]:
    lines = []
    total = 0
    for level in (1, 2, 3, 4):
        for entry in entries_of(hv, mfn, level):
            total += 1
            bits = describe_entry(entry.value, level).split()
            named = " ".join(word for word in bits if not word.startswith("MFN="))
            head = f"    L{level}[{entry.index:03x}] of frame {entry.table:#x}  {named}"
            places = list(reach(hv, entry))
            for place in places:
                domain = hv.domains[place.domain]
                symbol = domain.symbols.name(place.va)
                where = f"{place.va:#x}" + (f" <{symbol}>" if symbol else "")
                role = role_of(hv, place.root)
                lines.append(f"{head}  {domain.label} at {where} (table {place.root:#x}, {role})")
            if not places:
                owner = owner_text(hv, hv.frames.owner[entry.table])
                lines.append(f"{head}  {owner}, in no address space")
    if total >= MAX_FOUND:
        lines.append(f"    ... only the first {MAX_FOUND:,} were looked at")
    return [f"  mapped by       {_many(total, 'entry', 'entries')}", *lines]


def _other_references(hv: "Hypervisor", mfn: MFN) -> list[str]:
    """References that are no page-table entries."""
    found = []
    if hv.frames.flags[mfn] & PINNED:
        found.append("pinned as a page table")
    for domain in hv.domains.values():
        holds = (
            ([domain.table], "kernel's top table"),
            ([domain.user_table], "user mode's top table"),
            (domain.gdt_frames, "GDT page"),
            (domain.ldt_frames.values(), "LDT page"),
            ([domain.shared_info], "shared_info page"),
            (domain.service_frames, "XenStore or console ring"),
        )
        found += [f"{domain.label}'s {what}" for frames, what in holds if mfn in frames]
    if mfn in hv.frames.m2p_frames:
        found.append("part of the M2P, which every domain can read")
    return found


# --- shared --------------------------------------------------------------------------------


def shared_view(hv: "Hypervisor", limit: int = 200) -> str:
    """All shared frames with their counts, those with the highest counts first."""
    frames = hv.frames
    found = sorted(hv.sharing.keyed().items(), key=lambda item: (-frames.refs[item[0]], item[0]))
    if not found:
        return "no frame is shared"
    rows: list[tuple[str, ...]] = [("frame", "count", "group", "hash", "mapped by")]
    for mfn, key in found[:limit]:
        users = [
            f"d{domain.id}" + (f" x{domain.shared[mfn]}" if domain.shared[mfn] > 1 else "")
            for domain in hv.domains.values()
            if mfn in domain.shared
        ]
        if len(users) > _MOST_DOMAINS:
            users = [*users[:_MOST_DOMAINS], f"and {len(users) - _MOST_DOMAINS} more"]
        zero = "  zeros" if hv.machine.memory.frame_bytes(mfn) == _ZERO else ""
        low = key & ((1 << 64) - 1)
        rows.append(
            (
                f"{mfn:#x}",
                str(frames.refs[mfn]),
                str(key >> 64),
                f"{low:016x}",
                ", ".join(users) + zero,
            )
        )
    lines = table_text(rows, right=(1, 2))
    if len(found) > limit:
        lines.append(f"... and {len(found) - limit:,} more")
    lines.append(
        f"{_many(len(found), 'frame')}, {_many(hv.sharing.mappings, 'mapping')}, "
        f"{hv.sharing.saved:,} saved"
    )
    return "\n".join(lines)


def table_text(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> list[str]:
    """Rows as aligned lines; ``right``: columns that are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
