"""Copying from and to a guest: the one pair of functions that touches memory a guest points at.

An address from a guest is a claim. ``read`` and ``write`` walk the domain's *current* address space
as the MMU would (present at each level, writable at each level for a write, and A and D set like
the CPU sets them) and refuse the hypervisor's own range. A claim that does not hold raises
``GuestFault``, which becomes -EFAULT in the hypercall's result (``hypervisor.dispatch``).

Source: Intel SDM volume 3A, 4.6 and 4.8; Xen refuses its own range the same way (``__addr_ok``).
"""

from typing import Final, TypeVar

from emu import Machine
from emu.paging import PTE_A, PTE_D, PTE_MFN_MASK, PTE_P, PTE_RW
from emu.units import ENTRIES, MA, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, mfn_of
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START_PAE,
    Record,
    layout,
    read,
    size_of,
)
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault

_TOP_LOW_PAE: Final = int(HYPERVISOR_VIRT_START_PAE)
_TOP_LOW: Final = 1 << 47
_TOP_HIGH: Final = (1 << 64) - (1 << 47)


T = TypeVar("T", bound=Record)


class GuestMemory:
    """Access to the linear memory of the domain that runs."""

    def __init__(self, machine: Machine) -> None:
        self._memory = machine.memory
        self._words = machine.memory.words
        self._coherence = machine.coherence

    @staticmethod
    def possible(domain: Domain, va: int) -> bool:
        """False if no guest of the domain's width can have anything at ``va``: not canonical and
        above the lower half, or the hypervisor's. Xen looks no further where it takes an address
        for later."""
        if domain.width == 32:
            return va < _TOP_LOW_PAE
        return va < _TOP_LOW or va >= HYPERVISOR_VIRT_END

    def translate(self, domain: Domain, va: int, write: bool, table: MFN | None = None) -> MA:
        """Machine address behind a guest's linear address.

        ``table``: the L4 table of the address space, if not the one that the domain is in.

        Raises:
            GuestFault: not canonical, the hypervisor's, not mapped, or not writable.
        """
        if va >= _TOP_LOW_PAE and domain.width == 32:
            raise GuestFault
        if va >= _TOP_LOW and (va < _TOP_HIGH or HYPERVISOR_VIRT_START <= va < HYPERVISOR_VIRT_END):
            raise GuestFault
        need = PTE_P | PTE_RW if write else PTE_P
        words = self._words
        if table is None:
            table = domain.table if domain.kernel_mode else domain.user_table
        # Written out, and with word indices instead of frame numbers: every hypercall that takes a
        # pointer and every bounce frame comes through here.
        entry = words[table * ENTRIES + (va >> 39 & 511)]
        if entry & need != need:
            raise GuestFault
        entry = words[((entry & PTE_MFN_MASK) >> 3) + (va >> 30 & 511)]
        if entry & need != need:
            raise GuestFault
        entry = words[((entry & PTE_MFN_MASK) >> 3) + (va >> 21 & 511)]
        if entry & need != need:
            raise GuestFault
        at = ((entry & PTE_MFN_MASK) >> 3) + (va >> PAGE_SHIFT & 511)
        entry = words[at]
        if entry & need != need:
            raise GuestFault
        touched = PTE_A | PTE_D if write else PTE_A
        if entry & touched != touched:
            words[at] = entry | touched
        return MA((entry & PTE_MFN_MASK) + (va & PAGE_MASK))

    def read(self, domain: Domain, va: int, length: int) -> bytes:
        """``length`` bytes from the guest's linear address ``va``.

        Raises:
            GuestFault: some of them may not be read.
        """
        offset = va & PAGE_MASK
        if offset + length <= PAGE_SIZE:
            at = self.translate(domain, va, write=False)
            return bytes(self._memory.bytes[at : at + length])
        parts = []
        while length > 0:
            part = min(length, PAGE_SIZE - (va & PAGE_MASK))
            at = self.translate(domain, va, write=False)
            parts.append(bytes(self._memory.bytes[at : at + part]))
            va = (va + part) & ((1 << 64) - 1)
            length -= part
        return b"".join(parts)

    def record(self, domain: Domain, kind: type[T], va: int) -> T:
        """The structure ``kind`` at ``va``, as guests of the domain's width lay it out.

        Raises:
            GuestFault: some of it may not be read.
        """
        kind = layout(kind, domain.width)
        return read(kind, self.read(domain, va, size_of(kind)))

    def read_for_update(self, domain: Domain, va: int, length: int) -> bytes:
        """``read``, of memory that will be written: it is known afterwards that it can be.

        Raises:
            GuestFault: some of it may not be read or not be written.
        """
        if (va & PAGE_MASK) + length <= PAGE_SIZE:
            at = self.translate(domain, va, write=True)
            return bytes(self._memory.bytes[at : at + length])
        data = self.read(domain, va, length)
        self.write(domain, va, data)
        return data

    def write_kernel(self, domain: Domain, va: int, data: bytes) -> bool:
        """``write`` in the kernel's address space, whatever mode the domain is in. False if not
        all of it may be written."""
        try:
            self.write(domain, va, data, domain.table)
        except GuestFault:
            return False
        return True

    def write(self, domain: Domain, va: int, data: bytes, table: MFN | None = None) -> None:
        """Copy ``data`` to the guest's linear address ``va``; all of it or nothing.

        ``table`` as for ``translate``.

        Raises:
            GuestFault: some of it may not be written.
        """
        length = len(data)
        if (va & PAGE_MASK) + length <= PAGE_SIZE:
            at = self.translate(domain, va, True, table)
            self._memory.bytes[at : at + length] = data
            self._coherence.wrote(mfn_of(at))
            return
        places: list[tuple[MA, int, int]] = []
        done = 0
        while done < len(data):
            part = min(len(data) - done, PAGE_SIZE - (va & PAGE_MASK))
            places.append((self.translate(domain, va, True, table), done, part))
            va = (va + part) & ((1 << 64) - 1)
            done += part
        for at, start, part in places:
            self._memory.bytes[at : at + part] = data[start : start + part]
            self._coherence.wrote(mfn_of(at))
