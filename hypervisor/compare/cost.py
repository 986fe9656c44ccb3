"""The cost model: cycles for each event that was counted. Estimates, and said to be so.

Emulated time is not the time of hardware: the counts are exact, what they would cost is not known.
This table puts published numbers, or numbers measured here, in the place of a measurement; where
there is neither it says that it is an assumption. Totals serve to compare systems, never more.

A switch between domains is the one event about which the 2005 argument turns, and for which the
published numbers lie furthest apart. So there are two models: Xen's switch of virtual machines, and
an L4 kernel's message from one address space to another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event: the counter that counts it, its cycles, and where these come from."""

    counter: str
    what: str
    cycles: float
    source: str


EVENTS: Final = (
    Event(
        "instructions",
        "instruction of a guest",
        1.0,
        "assumption: one per cycle. The guests' copies and checksums are in here.",
    ),
    Event(
        "hypercalls",
        "hypercall: in, dispatch, out",
        222.0,
        "L4Re, 'Performance Overview' (l4re.org/performance.html): a system call on a Xeon "
        "Platinum 8352S, TSC cycles. A 64-bit PV hypercall is the same instruction.",
    ),
    Event(
        "traps",
        "exception that Xen passes on to a guest's handler, and its IRET",
        1842.0,
        "least of 100 minor page faults on an 11th-generation Core i7 under Linux 6.6 "
        "(ddumbying.vercel.app/experiments/pagefault-latency): in, a page, out. Rather too high.",
    ),
    Event(
        "entries",
        "page-table entry that the hypervisor checks and writes",
        100.0,
        "assumption: two atomic updates of reference counts and a store.",
    ),
    Event(
        "share_calls",
        "page that make_ro_and_share hashes",
        800.0,
        "measured here: xxh3_64 of 4 KiB in 0.28 us, at about 3 GHz.",
    ),
    Event(
        "merged",
        "merge: 4 KiB compared, a frame scrubbed",
        1300.0,
        "assumption: 8 KiB read and 4 KiB written, at about 10 bytes per cycle out of the caches.",
    ),
    Event(
        "flushes",
        "flush of the whole TLB",
        1200.0,
        "assumption: a write of CR3 and some thirty misses after it.",
    ),
    Event("page_flushes", "flush of one page", 150.0, "assumption: INVLPG and one miss."),
)
"""All events but the switch of domains."""

SWITCH: Final = "switches"
XEN_SWITCH: Final = Event(
    SWITCH,
    "switch from one domain to another, as Xen's virtual machines",
    10_534.0,
    "Dall et al., 'ARM Virtualization: Performance and Architectural Implications', ISCA 2016, "
    "table of microbenchmarks: VM switch, Xen on x86 (hardware-assisted; PV is lighter).",
)
L4_SWITCH: Final = Event(
    SWITCH,
    "switch from one domain to another, as a message between address spaces in an L4 kernel",
    934.0,
    "L4Re, 'Performance Overview' (l4re.org/performance.html): IPC between two address spaces on a "
    "Xeon Platinum 8352S, TSC cycles.",
)


def cycles(counts: Mapping[str, int], switch: Event = XEN_SWITCH) -> int:
    """Estimated cycles of what was counted; idle time costs nothing."""
    events = (*EVENTS, switch)
    return round(sum(event.cycles * counts.get(event.counter, 0) for event in events))
