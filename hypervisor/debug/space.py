"""One domain's address space, looked at from outside: nothing is set, nothing faults.

The tables are those that the domain runs on, or will when it next runs. A 32-bit domain runs in
compatibility mode on four levels, of which the topmost is the hypervisor's own, so both widths are
walked alike; only its addresses are short.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from emu.units import MA, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PFN, VA
from emu.walk import PV_CONTROLS, Access, Controls, Walk, walk
from hypervisor.domain import NO_FRAME, Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_READ: Final = 1 << 24
"""Bytes that one read gives at most."""
SYSTEM: Final = Access()
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Space:
    """The tables of ``domain`` that are in use: the kernel's or the user's, as its mode says."""

    hv: "Hypervisor"
    domain: Domain
    controls: Controls = PV_CONTROLS

    @property
    def table(self) -> MFN:
        """Frame of the top table, ``NO_FRAME`` if the domain has none."""
        domain = self.domain
        if domain.width == 32 or domain.kernel_mode or domain.user_table == NO_FRAME:
            return domain.table
        return domain.user_table

    @property
    def hides_top(self) -> bool:
        """True if the top table is the hypervisor's own, which the guest never sees."""
        return self.domain.width == 32

    @property
    def end(self) -> int:
        """First linear address that the guest cannot have."""
        return 1 << self.domain.width

    @property
    def cr3(self) -> int:
        """CR3 as the MMU sees it."""
        return self.table << PAGE_SHIFT

    def wrap(self, address: int) -> VA:
        """An address cut to the domain's width."""
        return VA(address & (_M32 if self.domain.width == 32 else _M64))

    def walk(self, va: int, access: Access = SYSTEM) -> Walk:
        """Translate an address in software; see ``emu.walk``."""
        return walk(
            self.hv.machine.memory, self.cr3, self.wrap(va), access=access, controls=self.controls
        )

    def read(self, va: int, length: int) -> bytes:
        """Up to ``length`` bytes at a linear address; what is not mapped ends it."""
        memory = self.hv.machine.memory
        found = bytearray()
        length = min(length, MAX_READ)
        while len(found) < length:
            at = self.wrap(va + len(found))
            part = min(length - len(found), PAGE_SIZE - (at & PAGE_MASK))
            ma = self.walk(at).ma
            if self.table == NO_FRAME or ma is None or not memory.holds(ma, part):
                break
            found += memory.read(MA(ma), part)
        return bytes(found)

    def read_machine(self, ma: int, length: int) -> bytes:
        """Up to ``length`` bytes of machine memory."""
        memory = self.hv.machine.memory
        length = max(0, min(length, MAX_READ, memory.size - ma))
        return memory.read(MA(ma), length) if memory.holds(ma, length) and length else b""

    def read_pseudo(self, pa: int, length: int) -> bytes:
        """Up to ``length`` bytes at a pseudo-physical address."""
        found = bytearray()
        length = min(length, MAX_READ)
        while len(found) < length:
            at = pa + len(found)
            mfn = self.frame_of(at >> PAGE_SHIFT)
            if mfn is None:
                break
            part = min(length - len(found), PAGE_SIZE - (at & PAGE_MASK))
            found += self.read_machine((mfn << PAGE_SHIFT) | (at & PAGE_MASK), part)
        return bytes(found)

    def frame_of(self, pfn: int) -> MFN | None:
        """The frame that the M2P says is the domain's ``pfn``; None if none is."""
        frames = self.hv.frames
        mine = (frames.m2p_column == np.uint64(pfn & _M64)) & (
            frames.owner_column == self.domain.id
        )
        found = np.flatnonzero(mine)
        return MFN(int(found[0])) if len(found) else None

    def pfn_of(self, mfn: int) -> PFN | None:
        """The PFN that its owner calls a frame; None if it does not."""
        pfn = self.hv.frames.m2p(MFN(mfn))
        return None if pfn == _M64 else pfn

    def symbol(self, address: int) -> str:
        """``main+0x4``, or nothing."""
        return self.domain.symbols.name(address)
