"""A hand-made domain that really runs: code in page 0, data in 1, stacks in 2 and 3, page 4 spare.

Its handlers are the test's own assembly. ``done:`` is an endless jump; ``run`` executes a fixed
number of instructions, so a guest that goes wrong cannot hang a test.
"""

import struct

from emu.asm import assemble
from emu.cpu import RIP, RSP
from emu.paging import RFLAGS_IF
from emu.units import PAGE_SHIFT, PAGE_SIZE, VA
from hypervisor.abi import Flat64, Hypercall, MmuExt
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade

PAGES = 5
CODE, DATA, STACK, USER_STACK, SPARE = range(PAGES)
CS64, SS64 = int(Flat64.RING3_CS64), int(Flat64.RING3_SS64)
NO_PAGE = 0x4100_0000
DATA64 = 0x00CF_F300_0000_FFFF
CODE32 = 0x00CF_FB00_0000_FFFF
HV = Settings(machine_memory=4 << 20)


class Tiny(Handmade):
    """One domain running ``text``; the frame that a handler found is read with ``frame``."""

    def __init__(self, text: str, user_space: bool = False) -> None:
        super().__init__(Hypervisor(HV), PAGES)
        source = text + "\ndone: jmp done\n"
        defines = {"DATA": self.va(DATA), "STACK": self.stack, "USTACK": self.va(USER_STACK) + 4096}
        defines |= {"SPARE": self.va(SPARE), "SCRATCH": self.scratch}
        self.program = assemble(source, base=self.va(CODE), defines=defines)
        assert len(self.program.image) <= PAGE_SIZE
        self.write(self.va(CODE), self.program.image)
        if user_space:
            entries = [self.mfn(page) << PAGE_SHIFT | RW for page in range(PAGES)]
            self.user = self.new_space(entries)
            assert self.mmuext(MmuExt.NEW_USER_BASEPTR, self.user.l4) == 0
        self.hv.switch_to(self.domain)
        self.cpu = self.hv.machine.cpu
        self.words = self.cpu.words
        self.words[RIP] = self.va(CODE)
        self.words[RSP] = self.stack
        self.domain.kernel_sp = VA(self.stack - 0x800)

    @property
    def stack(self) -> VA:
        """Top of the kernel's stack."""
        return VA(self.va(STACK) + PAGE_SIZE)

    def at(self, symbol: str) -> int:
        return self.program.symbols[symbol]

    def trap(self, vector: int, symbol: str, flags: int = 0) -> None:
        """Register a handler through the hypercall."""
        entry = struct.pack("<BBHIQ", vector, flags, CS64, 0, self.at(symbol))
        self.write(self.scratch, entry + bytes(16))
        assert self.call(Hypercall.set_trap_table, self.scratch) == 0

    def run(self, instructions: int = 500) -> None:
        self.hv.machine.run(instructions)

    def go_user(self, symbol: str, flags: int = RFLAGS_IF) -> None:
        """Enter user mode at ``symbol`` by the iret hypercall."""
        self.iret(rip=self.at(symbol), cs=CS64, rsp=self.va(USER_STACK) + PAGE_SIZE, rflags=flags)

    def iret(
        self,
        *,
        rip: int,
        cs: int,
        rsp: int,
        ss: int = SS64,
        rflags: int = RFLAGS_IF,
        how: int = 0,
        rax: int = 0,
        r11: int = 0x11,
        rcx: int = 0xCC,
    ) -> int | None:
        sp = self.stack - 0x400
        self.write(sp, struct.pack("<9Q", rax, r11, rcx, how, rip, cs, rflags, rsp, ss))
        self.words[RSP] = sp
        return self.hv.dispatch.invoke(self.domain, Hypercall.iret, [0] * 6)

    def frame(self, count: int = 8, at: int | None = None) -> tuple[int, ...]:
        """``count`` words from RSP (or ``at``) upward."""
        where = self.words[RSP] if at is None else at
        return struct.unpack(f"<{count}Q", self.read(where, 8 * count))

    def word(self, va: int) -> int:
        return struct.unpack("<Q", self.read(va, 8))[0]

    @property
    def upcall_mask(self) -> int:
        return self.hv.machine.memory.bytes[(self.domain.shared_info << PAGE_SHIFT) + 1]

    @property
    def cr2(self) -> int:
        return self.hv.machine.memory.words[(self.domain.shared_info << 9) + 2]

    @property
    def crashed(self) -> str:
        """The crash report, empty if it lives."""
        return self.domain.exit.report if self.domain.exit else ""

    def gdt(self, *descriptors: int) -> int:
        """Make the spare page a GDT of these after a null one; returns set_gdt's answer."""
        raw = struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors)
        mfn = self.mfn(SPARE)
        self.write(self.va(SPARE), raw)
        self.write(self.scratch, struct.pack("<Q", mfn))
        self.update(SPARE, mfn << PAGE_SHIFT | RO)
        return self.call(Hypercall.set_gdt, self.scratch, 512)


def handler(body: str, rest: str = "") -> str:
    """``body``, then a handler ``h`` that sets RBX to 1, then ``rest``."""
    return f"{body}\n jmp done\nh: mov rbx, 1\n jmp done\n{rest}"
