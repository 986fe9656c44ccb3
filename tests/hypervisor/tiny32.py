"""``Tiny`` of 32 bits: a hand-made PAE domain that really runs, its kernel in ring 1.

Pages as in ``tiny``; the code may use ``hyper NUMBER, args...`` for a hypercall.
"""

import struct

from emu.asm import assemble
from emu.cpu import RBX, RIP, RSP
from emu.paging import RFLAGS_IF
from emu.units import PAGE_SHIFT, PAGE_SIZE, VA
from hypervisor.abi import Flat32, Hypercall
from hypervisor.builder import load_flat32
from hypervisor.hypervisor import Hypervisor
from tests.hypervisor.handmade import RO, Handmade
from tests.hypervisor.kernels32 import MACROS32
from tests.hypervisor.tiny import CODE, DATA, HV, PAGES, SPARE, STACK, USER_STACK

CS1, SS1 = int(Flat32.RING1_CS), int(Flat32.RING1_DS)
CS3, SS3 = int(Flat32.RING3_CS), int(Flat32.RING3_DS)


class Tiny32(Handmade):
    """One 32-bit domain running ``text``; the frame that a handler found is read with ``frame``."""

    def __init__(self, text: str, hv: Hypervisor | None = None) -> None:
        super().__init__(hv or Hypervisor(HV), PAGES, width=32)
        defines = {"DATA": self.va(DATA), "STACK": self.stack, "SPARE": self.va(SPARE)}
        defines |= {"USTACK": self.va(USER_STACK) + PAGE_SIZE, "SCRATCH": self.scratch}
        source = MACROS32 + text + "\ndone: jmp done\n"
        self.program = assemble(source, base=self.va(CODE), bits=32, defines=defines)
        assert len(self.program.image) <= PAGE_SIZE
        self.write(self.va(CODE), self.program.image)
        self.hv.switch_to(self.domain)
        self.cpu = self.hv.machine.cpu
        self.words = self.cpu.words
        load_flat32(self.cpu)
        self.words[RIP] = self.va(CODE)
        self.words[RSP] = self.stack
        self.domain.kernel_sp = VA(self.stack - 0x800)
        self.domain.kernel_ss = SS1

    @property
    def stack(self) -> VA:
        """Top of the kernel's stack."""
        return VA(self.va(STACK) + PAGE_SIZE)

    def at(self, symbol: str) -> int:
        return self.program.symbols[symbol]

    def trap(self, vector: int, symbol: str, flags: int = 0, cs: int = CS1) -> None:
        """Register a handler through the hypercall."""
        self.write(
            self.scratch, struct.pack("<BBHI", vector, flags, cs, self.at(symbol)) + bytes(8)
        )
        assert self.call(Hypercall.set_trap_table, self.scratch) == 0

    def run(self, instructions: int = 500) -> None:
        self.hv.machine.run(instructions)

    def go_user(self, symbol: str, eflags: int = RFLAGS_IF) -> None:
        """Enter ring 3 at ``symbol`` by the iret hypercall."""
        self.iret(self.at(symbol), CS3, self.va(USER_STACK) + PAGE_SIZE, SS3, eflags)

    def iret(
        self, eip: int, cs: int, esp: int = 0, ss: int = 0, eflags: int = RFLAGS_IF, eax: int = 0
    ) -> None:
        sp = self.stack - 0x400
        self.write(sp, struct.pack("<6I", eax, eip, cs, eflags, esp, ss))
        self.words[RSP] = sp
        assert self.hv.dispatch.invoke(self.domain, Hypercall.iret, [0] * 6) is None

    def frame(self, count: int) -> tuple[int, ...]:
        """``count`` words from ESP upward."""
        return struct.unpack(f"<{count}I", self.read(self.words[RSP], 4 * count))

    @property
    def handled(self) -> int:
        """What the handler put into EBX."""
        return self.words[RBX]

    @property
    def upcall_mask(self) -> int:
        return self.hv.machine.memory.bytes[(self.domain.shared_info << PAGE_SHIFT) + 1]

    @property
    def cr2(self) -> int:
        at = (self.domain.shared_info << PAGE_SHIFT) + 8
        return int.from_bytes(self.hv.machine.memory.bytes[at : at + 4], "little")

    @property
    def crashed(self) -> str:
        """The crash report, empty if it lives."""
        return self.domain.exit.report if self.domain.exit else ""

    def gdt(self, *descriptors: int) -> int:
        """Make the spare page a GDT of these after a null one; returns set_gdt's answer."""
        raw = struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors)
        mfn = self.mfn(SPARE)
        self.write(self.va(SPARE), raw)
        self.write(self.scratch, struct.pack("<I", mfn))
        self.update(SPARE, mfn << PAGE_SHIFT | RO)
        return self.call(Hypercall.set_gdt, self.scratch, 512)


def handler(body: str, rest: str = "") -> str:
    """``body``, then a handler ``h`` that sets EBX to 1, then ``rest``."""
    return f"{body}\n jmp done\nh: mov ebx, 1\n jmp done\n{rest}"
