"""The workloads: what the guests of ``guests/lab`` do, and with which words it is asked for.

Sizes are in pages of 4 KiB. ``stops_changing`` names the phase at whose end the contents have come
to rest: the target of ``make_ro_and_share`` (95 % of what is possible) is held against it.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload. ``pages``: of each domain by default; ``module``: it reads files."""

    name: str
    description: str
    cmdline: str
    pages: int = 128
    least_pages: int = 1
    most_pages: int = 4096
    copies: int = 1
    """How many pages at most a page comes to be, by forks."""
    module: bool = False
    stops_changing: str | None = None
    """Name of the phase at whose end nothing changes any more; None if there is no such phase."""


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload(
            "boot",
            "a storm of equal kernels that boot: blocks of a boot disk, what every kernel makes of "
            "itself, zeros and pages of its own; then services start and write",
            "workload=boot",
            module=True,
            stops_changing="up",
        ),
        Workload(
            "fork",
            "six processes in each domain, five of them forked; each writes a quarter of its "
            "pages, half of them end early",
            "workload=fork procs=6",
            pages=64,
            most_pages=256,
            copies=3,
            stops_changing="phase2",
        ),
        Workload(
            "pagecache",
            "a page cache over real files that overlap from domain to domain, with replacement and "
            "some writes; then quiet",
            "workload=pagecache",
            module=True,
            stops_changing="quiet",
        ),
        Workload(
            "zero",
            "four phases (allocate, read, write, free) over pages of zeros",
            "workload=fourphase contents=zero",
            stops_changing="read",
        ),
        Workload(
            "random",
            "four phases over pages that are unlike any other",
            "workload=fourphase contents=random",
        ),
        Workload(
            "identical",
            "four phases over pages that are the same in every domain",
            "workload=fourphase contents=identical",
            stops_changing="read",
        ),
        Workload(
            "similar",
            "four phases over pages that are like each other but for 5 % of their bytes",
            "workload=fourphase contents=similar",
        ),
        Workload(
            "short",
            "pages that live four milliseconds; three of four hold one of eight contents",
            "workload=short",
            least_pages=80,
        ),
        Workload(
            "aslr",
            "an image of real files that each domain links to an address of its own: half of the "
            "pages hold pointers or are shifted by some bytes",
            "workload=aslr",
            module=True,
            stops_changing="read",
        ),
        Workload(
            "writeall",
            "the worst case: what is shared everywhere is written everywhere, three times",
            "workload=writeall rounds=3",
        ),
    )
}
"""All workloads by name, in the order in which tables show them."""
