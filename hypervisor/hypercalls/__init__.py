"""The hypercalls, one module per family; importing this package fills the registry."""

from hypervisor.hypercalls import cpu, mmu, share
from hypervisor.hypercalls.registry import HYPERCALLS, Entry

__all__ = ["HYPERCALLS", "Entry", "cpu", "mmu", "share"]
