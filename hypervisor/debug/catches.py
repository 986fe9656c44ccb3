"""Catches: which events a person wants to stop at.

Two sources. What the hypervisor tells its listeners (traps that are delivered, hypercalls, sharing,
creation, exit) is matched as it comes. What nobody tells of (a page-table entry, a row of the frame
table, a counter) is compared with its last value at the end of each trap, and only while somebody
has asked for it. Nothing is paid where there is no catch.

An entry's accessed and dirty bits are the CPU's: it sets them without a trap, and a change of
these alone is not reported.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from emu.paging import PTE_A, PTE_AVL, PTE_D, PTE_MFN_MASK
from emu.trap import PF
from emu.units import MA, MFN, PAGE_MASK, PAGE_SHIFT
from hypervisor.abi import DomId
from hypervisor.debug.model import CATCH_KINDS, Catch, DebugError, Event
from hypervisor.domain import Domain
from hypervisor.frames import FREE, PageType
from hypervisor.hypervisor import Hypervisor

COMPARED: Final = frozenset({"pte", "frame", "counter"})
"""Kinds that are compared at the end of each trap; all others are told by the hypervisor."""
_EVENTS: Final = {
    "trap": "fault",
    "hypercall": "hypercall",
    "share": "share",
    "cow_fault": "cow",
    "drop": "free",
    "create": "create",
    "exit": "exit",
}
_CPU_BITS: Final = PTE_A | PTE_D
_OWNERS: Final = {int(DomId.XEN): "xen", int(DomId.COW): "shared", FREE: "free"}


def owner_name(owner: int) -> str:
    """``free``, ``shared``, ``xen`` or ``d3``."""
    return _OWNERS.get(owner, f"d{owner}")


def check(catch: Catch) -> None:
    """Refuse a catch that can never catch.

    Raises:
        DebugError: what is wrong with it.
    """
    if catch.kind not in CATCH_KINDS:
        raise DebugError(f"{catch.kind!r} cannot be caught; there are {', '.join(CATCH_KINDS)}")
    if catch.kind == "pte" and catch.address is None:
        raise DebugError("catch pte needs the machine address of an entry")
    if catch.kind == "frame" and catch.mfn is None:
        raise DebugError("catch frame needs the number of a frame")
    if catch.kind == "counter" and not catch.counter:
        raise DebugError("catch counter needs the name of a counter")


def kinds_of(kind: str, details: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of catches that an event of the hypervisor's may hit."""
    name = _EVENTS.get(kind)
    if name is None:
        return ()
    if kind == "share":
        return ("share", "merge") if details.get("status") == 1 else ("share",)
    if kind == "exit":
        return ("exit", "crash") if details.get("reason") == "crash" else ("exit",)
    if kind == "drop":
        return ("free",) if details.get("count") == 0 else ()
    return (name,)


def matches(catch: Catch, kind: str, event: Event) -> bool:
    """Whether the filters of a catch let an event of one of its kinds through."""
    if catch.kind != kind or not catch.enabled:
        return False
    if catch.domain is not None and catch.domain != event.domain:
        return False
    details = event.details
    for name in ("vector", "error", "name", "result", "mfn"):
        wanted = getattr(catch, name)
        if wanted is not None and details.get(name) != wanted:
            return False
    if catch.address is not None and kind == "fault":
        address = details.get("address")
        if address is None or (address ^ catch.address) & ~PAGE_MASK:
            return False
    if catch.avl is not None and not details.get("avl", 0) & catch.avl:
        return False
    arguments = details.get("arguments", ())
    return all(at < len(arguments) and arguments[at] == v for at, v in catch.args.items())


class Comparisons:
    """The last values of what ``pte``, ``frame`` and ``counter`` catches look at."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._last: dict[int, dict[str, Any]] = {}

    def forget(self, number: int) -> None:
        """A catch is gone."""
        self._last.pop(number, None)

    def take(self, catch: Catch) -> None:
        """What a catch looks at has this value now."""
        self._last[catch.number] = self._value(catch)

    def changed(self, catch: Catch) -> dict[str, Any] | None:
        """Details of what changed since last asked, None if nothing did."""
        now = self._value(catch)
        before = self._last.get(catch.number)
        self._last[catch.number] = now
        if before is None or before == now:
            return None
        if catch.kind == "frame":
            details = {f"old_{name}": value for name, value in before.items()}
            return details | now | {"mfn": catch.mfn}
        old, new = before["value"], now["value"]
        if catch.kind == "counter":
            if catch.value is not None and not old < catch.value <= new:
                return None
            return {"counter": catch.counter, "old": old, "new": new}
        return {"address": catch.address, "old": old, "new": new}

    def _value(self, catch: Catch) -> dict[str, Any]:
        hv = self._hv
        if catch.kind == "pte":
            entry = hv.machine.memory.read_u64(MA((catch.address or 0) & ~7))
            return {"value": entry & ~_CPU_BITS}
        if catch.kind == "frame":
            frames, mfn = hv.frames, catch.mfn or 0
            if not frames.exists(mfn):
                return {}
            kind = frames.type[mfn] if frames.type_count[mfn] else 0
            return {
                "type": PageType(kind).name,
                "owner": owner_name(frames.owner[mfn]),
                "count": frames.refs[mfn],
                "type_count": frames.type_count[mfn],
            }
        return {"value": counter_value(hv, catch.domain, catch.counter or "")}


def counter_value(hv: Hypervisor, domain: int | None, name: str) -> int:
    """A counter of a domain, or of the machine: the hypervisor's own or sharing's."""
    if domain is not None:
        found = hv.domains.get(domain)
        if found is None:
            return 0
        return found.instructions if name == "instructions" else found.counters[name]
    if name == "instructions":
        return hv.machine.position
    return hv.counters[name] or hv.sharing.counters[name]


def fault_details(hv: Hypervisor, domain: Domain, details: Mapping[str, Any]) -> dict[str, Any]:
    """A trap's details with the address and entry of a page fault added."""
    full = dict(details)
    if full.get("vector") == PF:
        address = full.setdefault("address", hv.machine.cpu.cr2)
        found = leaf_entry(hv, domain, int(address))
        if found is not None:
            at, entry = found
            full |= {"pte": int(at), "entry": entry, "avl": entry & PTE_AVL}
            full["mfn"] = (entry & PTE_MFN_MASK) >> PAGE_SHIFT
    return full


def leaf_entry(hv: Hypervisor, domain: Domain, va: int) -> tuple[MA, int] | None:
    """Machine address and value of the L1 entry of a linear address; None if no table has one."""
    memory = hv.machine.memory
    table = domain.table if domain.kernel_mode else domain.user_table
    at = MA(0)
    entry = table << PAGE_SHIFT | 1
    for shift in _shifts():
        if not entry & 1:
            return None
        at = MA((entry & PTE_MFN_MASK) + (va >> shift & 511) * 8)
        entry = memory.read_u64(at)
    return at, entry


def _shifts() -> Iterator[int]:
    return iter((39, 30, 21, 12))


def frame_of(entry: int) -> MFN:
    """The frame that an entry points at."""
    return MFN((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
