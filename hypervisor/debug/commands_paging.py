"""Commands that look at page tables, frames and sharing."""

from typing import Final

from emu.debug.qemu import info_mem as qemu_mem
from emu.debug.qemu import info_tlb as qemu_tlb
from emu.units import PAGE_SHIFT
from emu.walk import Access
from hypervisor.debug import views_paging
from hypervisor.debug.commands import Context, command
from hypervisor.debug.model import DebugError
from hypervisor.debug.space import Space
from hypervisor.debug.views_paging import Filter
from hypervisor.domain import NO_FRAME

_KINDS: Final = {"read": {}, "write": {"write": True}, "fetch": {"fetch": True}}
_FILTERS: Final[dict[str, dict[str, bool]]] = {
    "writable": {"writable": True},
    "w": {"writable": True},
    "readonly": {"writable": False},
    "ro": {"writable": False},
    "user": {"user": True},
    "u": {"user": True},
    "supervisor": {"user": False},
    "executable": {"executable": True},
    "x": {"executable": True},
    "nx": {"executable": False},
    "shared": {"shared": True},
    "all": {"all": True},
}


@command("walk", "ADDRESS [read|write|fetch] [user|supervisor]", group="paging",
         completes="expression")  # fmt: skip
def walk(context: Context, arguments: str) -> str:
    """Translate an address level by level, every bit named, and say where and why it fails.

    By default the access is a read, made as the domain's code would make it: a 64-bit PV kernel
    runs in ring 3, so as a user. Nothing is set and nothing faults.
    """
    words = arguments.split()
    kind: dict[str, bool] = {}
    user = context.registers.cpl == 3
    while len(words) > 1 and (words[-1] in _KINDS or words[-1] in ("user", "supervisor")):
        word = words.pop()
        if word in _KINDS:
            kind = dict(_KINDS[word])
        else:
            user = word == "user"
    return views_paging.walk_view(
        context.space, context.address(" ".join(words)), Access(user=user, **kind)
    )


@command("pt", "[ADDRESS [END]] [FILTER...]", group="paging", completes="filter")
def pt(context: Context, arguments: str) -> str:
    """Show the page tables in use as a folded tree: entries with equal bits are one line.

    Filters: writable readonly user supervisor executable nx shared avl avl=N (1..7, these bits
    set), all (the hypervisor's slots too), limit=N lines. A and D in small letters: some entries of
    the run have the bit.
    """
    chosen: dict[str, bool | int | None] = {}
    places = []
    for word in arguments.split():
        name, equals, value = word.partition("=")
        if word in _FILTERS:
            chosen.update(_FILTERS[word])
        elif name == "avl":
            chosen["avl"] = context.value(value) & 7 if equals else 0
        elif name == "limit" and equals:
            chosen["limit"] = context.value(value)
        else:
            places.append(word)
    if len(places) > 2:
        raise DebugError(f"{' '.join(places[2:])}: a range has two ends (see 'help pt')")
    if places:
        chosen["start"] = context.address(places[0])
        chosen["end"] = (
            context.address(places[1]) if len(places) > 1 else _page_end(chosen["start"])
        )
    return views_paging.tree_view(context.space, Filter(**chosen))  # type: ignore[arg-type]


def _page_end(start: object) -> int:
    return (int(start) | 0xFFF) + 1 if isinstance(start, int) else 1 << 64


def frame_number(context: Context, text: str) -> int:
    """A frame: its number, or an address of the selected domain whose page it is.

    Raises:
        DebugError: it is neither.
    """
    value = context.value(text)
    if context.debugger.hv.frames.exists(value):
        return value
    mfn = Space.walk(context.space, value).mfn
    if mfn is None:
        raise DebugError(f"{text.strip()}: no frame has this number, and no page is mapped there")
    return mfn


@command("frame", "MFN | ADDRESS", group="paging", completes="expression")
def frame(context: Context, arguments: str) -> str:
    """Show a frame: owner, type, counts, hash of its contents, every mapping in every domain.

    A number that no frame has is taken as an address of the selected domain.
    """
    if not arguments:
        raise DebugError("which frame? ('shared' and 'walk' show numbers)")
    return views_paging.frame_view(context.debugger.hv, frame_number(context, arguments))


@command("shared", "[N]", aliases=("info shared",), group="paging")
def shared(context: Context, arguments: str) -> str:
    """List the shared frames: sharing count, group, hash, who maps them."""
    limit = context.value(arguments) if arguments else 200
    return views_paging.shared_view(context.debugger.hv, limit)


@command("info mem", group="paging")
def info_mem(context: Context, _arguments: str) -> str:
    """Mapped ranges and their rights in the format of QEMU's monitor."""
    space = _with_tables(context)
    return "\n".join(qemu_mem(space.hv.machine.memory, space.cr3, space.controls, space.end))


@command("info tlb", group="paging")
def info_tlb(context: Context, _arguments: str) -> str:
    """Every mapped page in the format of QEMU's monitor."""
    space = _with_tables(context)
    return "\n".join(qemu_tlb(space.hv.machine.memory, space.cr3, space.controls, space.end))


def _with_tables(context: Context) -> Space:
    space = context.space
    if space.table == NO_FRAME:
        raise DebugError(f"{space.domain.label} has no page table")
    return space


@command("p2m", "PFN", group="paging")
def p2m(context: Context, arguments: str) -> str:
    """Say which frame the selected domain's pseudo-physical frame is."""
    pfn = context.value(arguments)
    mfn = context.space.frame_of(pfn)
    if mfn is None:
        return f"no frame is PFN {pfn:#x} of {context.domain.label}"
    return f"PFN {pfn:#x} is frame {mfn:#x}, machine address {mfn << PAGE_SHIFT:#x}"
