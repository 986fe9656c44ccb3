"""The hypercalls, one module per family; importing this package fills the registry."""

from hypervisor.hypercalls import (
    console,
    cpu,
    event,
    grant,
    memory,
    misc,
    mmu,
    sched,
    share,
    vcpu,
    version,
)
from hypervisor.hypercalls.registry import HYPERCALLS, TABLES, Entry

__all__ = [
    "HYPERCALLS",
    "TABLES",
    "Entry",
    "console",
    "cpu",
    "event",
    "grant",
    "memory",
    "misc",
    "mmu",
    "sched",
    "share",
    "vcpu",
    "version",
]
