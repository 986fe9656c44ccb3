"""A bare machine for tests: flat user-mode code over a 1 GiB identity map."""

from emu import Machine, Trap
from emu.asm import assemble_bytes
from emu.paging import PTE_P, PTE_PSE, PTE_RW, PTE_US
from emu.units import ENTRIES, MA, MFN, PAGE_SHIFT, VA

L4, L3, L2, L1 = MFN(1), MFN(2), MFN(3), MFN(4)
CODE = VA(0x10000)
WINDOW = VA(0x4000_0000)
"""First address mapped by ``L1``: its entries are the test's to fill."""
TABLE = PTE_P | PTE_RW | PTE_US


class Bare:
    """``machine`` at CPL 3 with the first 1 GiB mapped one to one and ``WINDOW`` behind an L1."""

    def __init__(self, size: int = 16 << 20, cpl: int = 3) -> None:
        self.machine = Machine(size)
        self.words = self.machine.memory.words
        self.words[L4 * ENTRIES] = L3 << PAGE_SHIFT | TABLE
        self.words[L3 * ENTRIES] = TABLE | PTE_PSE
        self.words[L3 * ENTRIES + 1] = L2 << PAGE_SHIFT | TABLE
        self.words[L2 * ENTRIES] = L1 << PAGE_SHIFT | TABLE
        self.machine.cpu.cr3 = L4 << PAGE_SHIFT
        self.machine.coherence.flush()
        self.machine.flat64(cpl, 0x30 | cpl, 0x28 | cpl)
        self.traps: list[Trap] = []
        self.machine.on_trap = self.note

    def note(self, trap: Trap) -> None:
        self.traps.append(trap)
        self.machine.stop()

    def code(self, text: str, at: int = CODE) -> None:
        """Assemble at ``at`` (identity mapped) and point RIP there."""
        self.machine.load(MA(at), assemble_bytes(text, at))
        self.machine.cpu.rip = at

    def map(self, index: int, mfn: int, flags: int) -> None:
        """Fill entry ``index`` of ``L1`` without telling anybody."""
        self.words[L1 * ENTRIES + index] = mfn << PAGE_SHIFT | flags
