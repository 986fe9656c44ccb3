"""The vCPU's hypercalls: trap table, callbacks, descriptors, segments; and random ones."""

import random
import struct

import pytest

from emu.cpu import GS, RBX, RIP, RSP
from emu.paging import PTE_RW
from emu.trap import GP, PF
from emu.units import MA, PAGE_SHIFT, VA
from hypervisor.abi import HYPERVISOR_VIRT_START, CallbackType, Errno, Hypercall, SegBase
from hypervisor.audit import audit
from hypervisor.descriptors import GDT_BASE
from hypervisor.domain import Callback
from hypervisor.frames import PageType
from tests.hypervisor.handmade import RO
from tests.hypervisor.tiny import (
    CODE32,
    CS64,
    DATA,
    DATA64,
    NO_PAGE,
    PAGES,
    SPARE,
    STACK,
    Tiny,
    handler,
)

# -- callbacks and the trap table ------------------------------------------------------------


def test_trap_table_errors() -> None:
    tiny = Tiny("nop")
    good = struct.pack("<BBHIQ", 3, 7, 0xE030, 0, 0x1000)
    bad = struct.pack("<BBHIQ", 4, 0, CS64, 0, 1 << 47)
    tiny.write(tiny.scratch, good + bad + bytes(16))
    assert tiny.call(Hypercall.set_trap_table, tiny.scratch) == -Errno.EINVAL
    entry = tiny.domain.trap_table[3]
    assert (entry.cs, entry.dpl, entry.masks_events) == (CS64, 3, True)
    assert 4 not in tiny.domain.trap_table
    assert tiny.call(Hypercall.set_trap_table, NO_PAGE) == -Errno.EFAULT
    assert tiny.call(Hypercall.set_trap_table, 0) == 0
    assert not tiny.domain.trap_table


def test_callback_op() -> None:
    tiny = Tiny("nop")

    def op(command: int, kind: int, address: int, flags: int = 0) -> int:
        tiny.write(tiny.scratch, struct.pack("<HHIQ", kind, flags, 0, address))
        return tiny.call(Hypercall.callback_op, command, tiny.scratch)

    assert op(0, CallbackType.syscall, 0x1000, 1) == 0
    assert tiny.domain.syscall_callback == Callback(VA(0x1000), True)
    assert op(0, CallbackType.event, 1 << 47) == -Errno.EINVAL
    assert tiny.domain.event_callback is None
    assert op(0, 99, 0x1000) == -Errno.ENOSYS
    assert op(0, CallbackType.nmi, 0x1000) == 0
    assert op(1, CallbackType.nmi, 0) == 0
    assert op(1, CallbackType.event, 0) == -Errno.EINVAL
    assert op(1, 99, 0) == -Errno.ENOSYS
    assert op(7, 0, 0) == -Errno.ENOSYS
    assert tiny.call(Hypercall.callback_op, 0, NO_PAGE) == -Errno.EFAULT
    assert tiny.call(Hypercall.set_callbacks, 0x1000, 0x2000, 0x3000) == 0
    assert tiny.domain.failsafe_callback == Callback(VA(0x2000))


# -- descriptors -----------------------------------------------------------------------------


def test_set_gdt_makes_segments_loadable() -> None:
    base = 0x12_3456
    descriptor = DATA64 & ~(3 << 45) | (base & 0xFF_FFFF) << 16
    tiny = Tiny(handler("mov eax, 0xb\n mov gs, eax\n mov rbx, 3"))
    assert tiny.gdt(descriptor) == 0
    mfn = tiny.mfn(SPARE)
    assert tiny.hv.frames.type[mfn] == PageType.SEG_DESC
    assert tiny.hv.frames.refs[mfn] == 2
    assert audit(tiny.hv) == []
    tiny.run()
    assert tiny.words[RBX] == 3
    assert tiny.cpu.selector(GS) == 0xB
    assert tiny.cpu.segment_base(GS) == base
    assert tiny.update(SPARE, mfn << PAGE_SHIFT | RO | PTE_RW) == -Errno.EBUSY
    assert tiny.call(Hypercall.set_gdt, tiny.scratch, 0) == 0
    assert tiny.hv.frames.type_count[mfn] == 0
    assert tiny.update(SPARE, mfn << PAGE_SHIFT | RO | PTE_RW) == 0


def test_an_absent_selector_is_gp_with_its_number() -> None:
    for selector in (0x0B, 0xE03B, 0xF003, 0xE00B):
        tiny = Tiny(handler(f"mov eax, {selector}\nf: mov gs, eax"))
        tiny.trap(GP, "h")
        tiny.run()
        assert tiny.frame()[2:4] == (selector & ~3, tiny.at("f"))


@pytest.mark.parametrize(
    "descriptor",
    [
        0x0000_8200_0000_0000,  # LDT
        0x0000_8900_0000_0000,  # TSS
        0x0000_8E00_0000_0000,  # interrupt gate
        0x0000_EC00_E008_0000,  # call gate to a segment of the hypervisor's
        0x0000_EC01_0008_0000,  # call gate with a parameter count
    ],
)
def test_descriptors_that_no_guest_may_have(descriptor: int) -> None:
    tiny = Tiny("nop")
    assert tiny.gdt(descriptor) == -Errno.EINVAL
    mfn = tiny.mfn(SPARE)
    assert tiny.hv.frames.type_count[mfn] == 0
    assert tiny.hv.frames.refs[mfn] == 1
    answer = tiny.call(Hypercall.update_descriptor, mfn << PAGE_SHIFT, descriptor)
    assert answer == -Errno.EINVAL


def test_checking_a_page_of_descriptors_is_work() -> None:
    """A multicall that makes a page one of descriptors again and again goes on in a later slice."""
    tiny = Tiny("nop")
    tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RO)
    tiny.write(tiny.scratch, struct.pack("<Q", tiny.mfn(SPARE)))
    spent = []
    for entries in (512, 512, 0, 512):
        before = tiny.hv.work
        assert tiny.call(Hypercall.set_gdt, tiny.scratch, entries) == 0
        spent.append(tiny.hv.work - before)
    assert spent == [128, 0, 0, 128]


def test_set_gdt_errors() -> None:
    tiny = Tiny("nop")
    assert tiny.call(Hypercall.set_gdt, tiny.scratch, 0x1C01) == -Errno.EINVAL
    assert tiny.call(Hypercall.set_gdt, NO_PAGE, 1) == -Errno.EFAULT
    for mfn in (tiny.mfn(DATA), 0, 1, 1 << 40, tiny.space.l1):
        tiny.write(tiny.scratch, struct.pack("<Q", mfn))
        assert tiny.call(Hypercall.set_gdt, tiny.scratch, 1) == -Errno.EINVAL
    assert tiny.domain.gdt_frames == ()


def test_update_descriptor_forces_ring_three() -> None:
    tiny = Tiny("nop")
    assert tiny.gdt() == 0
    at = tiny.mfn(SPARE) << PAGE_SHIFT | 16
    assert tiny.call(Hypercall.update_descriptor, at, CODE32 & ~(3 << 45)) == 0
    assert tiny.word(tiny.va(SPARE) + 16) == CODE32
    assert tiny.call(Hypercall.update_descriptor, at + 4, CODE32) == -Errno.EINVAL
    table = tiny.space.l1 << PAGE_SHIFT
    assert tiny.call(Hypercall.update_descriptor, table, 0) == -Errno.EINVAL
    assert tiny.call(Hypercall.update_descriptor, 1 << 60, 0) == -Errno.EINVAL


def test_the_window_is_out_of_reach() -> None:
    tiny = Tiny(handler(f"mov rax, {GDT_BASE:#x}\nf: mov rdx, [rax]"))
    tiny.trap(PF, "h")
    tiny.run()
    assert tiny.frame()[3] == tiny.at("f")
    assert tiny.cr2 == GDT_BASE


def test_set_segment_base() -> None:
    tiny = Tiny("nop")
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_USER, 0x1000) == 0
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_KERNEL, 0x2000) == 0
    assert (tiny.cpu.segment_base(GS), tiny.cpu.kernel_gs_base) == (0x2000, 0x1000)
    assert tiny.call(Hypercall.set_segment_base, SegBase.FS, 1 << 47) == -Errno.EINVAL
    assert tiny.call(Hypercall.set_segment_base, 9, 0) == -Errno.EINVAL
    assert tiny.gdt(DATA64 | 0x5000 << 16) == 0
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_USER_SEL, 8) == 0
    assert (tiny.cpu.selector(GS), tiny.cpu.kernel_gs_base) == (0xB, 0x5000)
    assert tiny.cpu.segment_base(GS) == 0x2000
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_USER_SEL, 0x100) == 0
    assert (tiny.cpu.selector(GS), tiny.cpu.kernel_gs_base) == (0, 0)


def test_destroying_a_domain_gives_the_descriptor_pages_back() -> None:
    tiny = Tiny(f"mov rax, [{NO_PAGE:#x}]")
    assert tiny.gdt(DATA64) == 0
    free = tiny.hv.frames.free
    tiny.run()
    tiny.hv.reap()
    assert tiny.domain.id not in tiny.hv.domains
    # Its pages and scratch page, its tables, shared_info and three window tables.
    assert tiny.hv.frames.free == free + PAGES + 1 + 4 + 4


# -- hostility -------------------------------------------------------------------------------

HOSTILE = (
    Hypercall.set_trap_table,
    Hypercall.set_gdt,
    Hypercall.stack_switch,
    Hypercall.set_callbacks,
    Hypercall.fpu_taskswitch,
    Hypercall.set_debugreg,
    Hypercall.get_debugreg,
    Hypercall.update_descriptor,
    Hypercall.set_segment_base,
    Hypercall.callback_op,
    Hypercall.nmi_op,
    Hypercall.iret,
    Hypercall.multicall,
)
OPCODES = "f4 0f30 0f32 cd21 cd0d cc 0f05 0f34 0f20d8 0f22e0 0f23f8 f36d ee 48cf 0f0b78656e0fa2"


@pytest.mark.parametrize("seed", range(12))
def test_random_calls_and_code_hurt_nobody(seed: int) -> None:
    choice = random.Random(seed)
    opcodes = [bytes.fromhex(text) for text in OPCODES.split()]
    for _ in range(4):
        tiny = Tiny("jmp done\nh: mov rsp, STACK\n jmp done", user_space=bool(seed & 1))
        if seed & 2:
            for vector in (*range(20), 0x21):
                tiny.trap(vector, "h", vector & 3)
        values = [0, 1, 3, 1 << 47, (1 << 64) - 1, tiny.scratch, tiny.stack, tiny.va(STACK) - 3]
        values += [GDT_BASE, HYPERVISOR_VIRT_START, 7168, tiny.mfn(SPARE) << 12, tiny.at("h")]
        for _ in range(40):
            if tiny.domain.exit:
                break
            if not tiny.domain.kernel_mode:
                tiny.hv.traps.toggle_mode(tiny.domain)
            words = [choice.choice(values) for _ in range(9)]
            tiny.write(tiny.scratch, struct.pack("<9Q", *words))
            tiny.words[RSP] = choice.choice(values)
            arguments = [choice.choice(values) for _ in range(6)]
            tiny.hv.dispatch.invoke(tiny.domain, choice.choice(HOSTILE), arguments)
            if tiny.domain.exit:
                break
            code = b"".join(choice.choices(opcodes, k=3)) + choice.randbytes(24)
            tiny.hv.machine.load(MA(tiny.mfn(DATA) << PAGE_SHIFT), code)
            tiny.words[RIP] = tiny.va(DATA)
            tiny.domain.iopl = choice.randrange(4)
            tiny.run(100)
        assert audit(tiny.hv) == []
        assert bool(tiny.domain.exit) == bool(tiny.crashed)
