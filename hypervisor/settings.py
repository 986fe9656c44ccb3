"""What a machine is started with. All of it is in the run's JSON, and the run repeats from it."""

from dataclasses import dataclass
from typing import Final

from hypervisor.sharing import SharingSettings

DEFAULT_MACHINE_MEMORY: Final = 256 << 20
"""Bytes."""
DEFAULT_SLICE: Final = 50_000
"""Instructions that a domain runs before another has its turn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a machine; memory in bytes, slice in guest instructions."""

    machine_memory: int = DEFAULT_MACHINE_MEMORY
    seed: int = 0
    groups: int = 1
    """Number of sharing groups; domain n is in group n modulo this."""
    zero_only: bool = False
    opaque: bool = False
    hash_bits: int = 64
    slice: int = DEFAULT_SLICE
    audit: bool = False
    """Run the audit after every operation (slow)."""

    def sharing(self) -> SharingSettings:
        """The part that ``Sharing`` needs."""
        return SharingSettings(self.seed, self.zero_only, self.opaque, self.hash_bits)
