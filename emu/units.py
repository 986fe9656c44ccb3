"""Distinct types for distinct numbers, and the sizes that relate them.

A frame number and an address are both integers, and mixing them up is the commonest mistake
in paging code; the type checker keeps them apart. Crossing from one to the other happens in
the functions below.

Source: Intel SDM volume 3A, section 4.5 (4-level paging).
"""

from typing import NewType

MFN = NewType("MFN", int)
"""Machine frame number: index of a 4 KiB frame of machine memory."""

MA = NewType("MA", int)
"""Machine address in bytes; what the SDM calls a physical address."""

VA = NewType("VA", int)
"""Linear (virtual) address in bytes, 0 <= VA < 2**64."""

PFN = NewType("PFN", int)
"""Pseudo-physical frame number, private to one guest."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = PAGE_SIZE - 1
ENTRIES = PAGE_SIZE // 8
"""Entries in one 64-bit page table."""


def mfn_of(address: MA) -> MFN:
    """Frame that holds the machine address."""
    return MFN(address >> PAGE_SHIFT)


def is_canonical(va: int) -> bool:
    """True if bits 63..47 of ``va`` are all equal (SDM volume 1, section 3.3.7.1)."""
    return va < 0x0000_8000_0000_0000 or 0xFFFF_8000_0000_0000 <= va <= 0xFFFF_FFFF_FFFF_FFFF
