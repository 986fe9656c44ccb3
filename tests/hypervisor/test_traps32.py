"""What a 32-bit guest's handlers see: bounce frames of ring 1, gates, callbacks, iret."""

import pytest

from emu.cpu import CS, DS, RAX, RBX, RIP, RSP, SS
from emu.paging import RFLAGS_AC, RFLAGS_IF, RFLAGS_IOPL, RFLAGS_NT, RFLAGS_TF, RFLAGS_VM
from emu.trap import BP, DB, GP, NM, NP, PF, UD
from emu.units import PAGE_SHIFT, VA
from hypervisor.abi import TI_IF, Errno, Flat64, Hypercall, VmAssist, VmAssistCmd
from hypervisor.domain import Callback
from tests.hypervisor.handmade import RO, RW
from tests.hypervisor.tiny import CODE, NO_PAGE, SPARE, STACK, USER_STACK
from tests.hypervisor.tiny32 import CS1, CS3, SS1, SS3, Tiny32, handler

M32 = (1 << 32) - 1
DATA_1 = 0x00CF_B300_0000_FFFF
CODE_1 = 0x00CF_BB00_0000_FFFF
LONG = 1 << 53

# -- frames ----------------------------------------------------------------------------------


def test_page_fault_in_ring_1() -> None:
    tiny = Tiny32(handler(f"f: mov eax, [{NO_PAGE:#x}]"))
    tiny.trap(PF, "h")
    before = tiny.words[RSP]
    tiny.run()
    assert not tiny.crashed
    error, eip, cs, eflags = tiny.frame(4)
    assert (error, eip, cs) == (0, tiny.at("f"), CS1)
    assert eflags & RFLAGS_IF
    assert tiny.words[RSP] == before - 16
    assert tiny.cr2 == NO_PAGE
    assert tiny.handled == 1
    assert tiny.cpu.cpl == 1


def test_page_fault_in_ring_3_starts_at_the_kernels_stack() -> None:
    tiny = Tiny32(handler("nop", f"u: mov eax, [{NO_PAGE:#x}]\n jmp done"))
    tiny.trap(PF, "h")
    tiny.go_user("u")
    assert tiny.cpu.cpl == 3
    assert not tiny.domain.kernel_mode
    tiny.run()
    assert tiny.domain.kernel_mode
    error, eip, cs, eflags, esp, ss = tiny.frame(6)
    assert (error, eip, cs) == (4, tiny.at("u"), CS3)
    assert eflags & RFLAGS_IF
    assert (esp, ss) == (tiny.va(USER_STACK) + 4096, SS3)
    assert tiny.words[RSP] == tiny.domain.kernel_sp - 24
    assert (tiny.cpu.selector(CS), tiny.cpu.selector(SS)) == (CS1, SS1)


def test_the_stack_is_not_aligned() -> None:
    tiny = Tiny32(handler("sub esp, 9\n int3\nf:"))
    tiny.trap(BP, "h")
    tiny.run()
    assert tiny.words[RSP] == tiny.stack - 9 - 12
    assert tiny.frame(2) == (tiny.at("f"), CS1)


def test_masking_gate_and_the_virtual_if() -> None:
    tiny = Tiny32(handler("int3"))
    tiny.trap(BP, "h", TI_IF)
    tiny.run()
    assert tiny.upcall_mask == 1
    assert tiny.frame(3)[1] >> 16 == 0
    assert tiny.frame(3)[2] & RFLAGS_IF
    tiny = Tiny32(handler("int3"))
    tiny.trap(BP, "h")
    tiny.hv.traps.set_upcall_mask(tiny.domain, True)
    tiny.run()
    assert tiny.frame(3)[1] == CS1 | 1 << 16
    assert not tiny.frame(3)[2] & RFLAGS_IF
    assert tiny.cpu.flags & RFLAGS_IF


def test_iopl_is_pushed_where_asked() -> None:
    tiny = Tiny32(handler("int3"))
    tiny.trap(BP, "h")
    call = Hypercall.vm_assist
    assert tiny.call(call, VmAssistCmd.enable, VmAssist.architectural_iopl) == 0
    tiny.domain.iopl = 2
    tiny.run()
    assert tiny.frame(3)[2] & RFLAGS_IOPL == 2 << 12
    assert not tiny.cpu.flags & RFLAGS_IOPL


def test_a_write_to_a_shared_page_is_counted_and_delivered() -> None:
    tiny = Tiny32(handler("mov dword ptr [SPARE + 16], 5"))
    tiny.trap(PF, "h")
    assert tiny.share(SPARE, 0x400) == 0
    tiny.run()
    assert tiny.frame(1) == (3,)
    assert tiny.domain.counters["cow_faults"] == 1


def test_supervisor_pages_are_the_kernels_alone() -> None:
    tiny = Tiny32(handler("mov eax, [SPARE]", "u: mov eax, [SPARE]\n jmp done"))
    tiny.trap(PF, "h")
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RO & ~4) == 0
    assert not tiny.entry(SPARE) & 4
    tiny.run()
    assert tiny.handled == 0
    tiny.go_user("u")
    tiny.run()
    assert tiny.handled == 1
    assert tiny.frame(1) == (5,)


# -- what cannot be delivered ----------------------------------------------------------------


@pytest.mark.parametrize("sp", [NO_PAGE, 0xF580_1000, M32, 0, 4, 0x4100_0004])
def test_a_stack_that_cannot_be_written_is_a_double_fault(sp: int) -> None:
    tiny = Tiny32(handler("int3"))
    tiny.trap(BP, "h")
    tiny.words[RSP] = sp
    tiny.run()
    assert "double fault" in tiny.crashed


def test_a_null_code_selector_ends_the_domain() -> None:
    tiny = Tiny32(handler("int3"))
    tiny.trap(BP, "h", cs=0)
    tiny.run()
    assert "null segment" in tiny.crashed


def test_a_kernel_stack_segment_that_cannot_be_loaded_faults_until_the_end() -> None:
    tiny = Tiny32(handler("nop", "u: int3\n jmp done"))
    tiny.trap(BP, "h", 3)
    tiny.trap(GP, "h")
    assert tiny.call(Hypercall.stack_switch, 0x1231, tiny.stack - 0x100) == 0
    tiny.go_user("u")
    tiny.run()
    assert "no handler can be entered" in tiny.crashed


def test_recursive_faults_end_at_the_end_of_the_stack() -> None:
    tiny = Tiny32(f"f: mov eax, [{NO_PAGE:#x}]")
    tiny.trap(PF, "f")
    assert tiny.update(STACK - 1, 0) == 0
    tiny.run(5000)
    assert "double fault" in tiny.crashed


def test_a_frame_across_two_pages() -> None:
    tiny = Tiny32(handler("mov esp, SPARE + 4\n int3\nf:"))
    tiny.trap(BP, "h")
    tiny.run()
    assert tiny.frame(2) == (tiny.at("f"), CS1)


# -- gates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "dpl", "delivered"),
    [(True, 0, False), (True, 1, True), (True, 3, True), (False, 1, False), (False, 3, True)],
)
@pytest.mark.parametrize("vector", [0x21, 6, 13, 14, 200, 0x82])
def test_int_n_checks_the_gate(vector: int, kernel: bool, dpl: int, delivered: bool) -> None:
    if vector == 0x82 and kernel:
        pytest.skip("that is a hypercall")
    text = f"u: int {vector}\nafter: jmp done\nh: mov ebx, 1\n jmp done\ng: mov ebx, 2\n jmp done"
    tiny = Tiny32(text)
    tiny.trap(GP, "g")
    tiny.trap(vector, "h", dpl)
    if vector == GP and not delivered:
        tiny.trap(GP, "g", dpl)
    if not kernel:
        tiny.go_user("u")
    tiny.run()
    assert not tiny.crashed
    if delivered:
        assert tiny.handled == 1
        assert tiny.frame(1) == (tiny.at("after"),)
    else:
        assert tiny.handled == 2
        assert tiny.frame(2) == (vector * 8 + 2, tiny.at("u"))


def test_int80_goes_straight_to_the_kernel() -> None:
    tiny = Tiny32(handler("nop", "u: int 0x80\nafter: jmp done"))
    tiny.trap(0x80, "h", 0)
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame(2) == (tiny.at("after"), CS3)


def test_handlers_run_on_their_own_code_segment() -> None:
    tiny = Tiny32(handler("int3"))
    assert tiny.gdt(CODE_1, DATA_1) == 0
    tiny.trap(BP, "h", cs=0x8)
    tiny.run()
    assert tiny.cpu.selector(CS) == 0x9
    assert tiny.handled == 1


# -- system calls ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [True, False])
def test_syscall_is_an_undefined_instruction(kernel: bool) -> None:
    tiny = Tiny32(handler("f: syscall", "u: syscall\n jmp done"))
    tiny.trap(UD, "h")
    if not kernel:
        tiny.go_user("u")
    tiny.run()
    assert tiny.handled == 1
    assert tiny.frame(2) == (tiny.at("f" if kernel else "u"), CS1 if kernel else CS3)


def test_sysenter_has_no_return_address() -> None:
    tiny = Tiny32(handler("nop", "u: sysenter\n jmp done"))
    tiny.domain.sysenter_callback = Callback(VA(tiny.at("h")), True, CS1)
    tiny.go_user("u")
    tiny.run()
    assert tiny.handled == 1
    eip, cs, _, esp, ss = tiny.frame(5)
    assert (eip, cs, esp, ss) == (0, 3, 0, SS3)
    assert tiny.upcall_mask == 1
    tiny = Tiny32(handler("nop", "u: sysenter\n jmp done"))
    tiny.trap(GP, "h")
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame(3) == (0, 0, 3)


def test_a_hypercall_in_ring_3_is_none() -> None:
    tiny = Tiny32(handler("nop", "u: mov eax, 17\n xor ebx, ebx\n int 0x82\n jmp done"))
    tiny.trap(GP, "h")
    tiny.go_user("u")
    before = tiny.domain.hypercalls
    tiny.run()
    assert tiny.domain.hypercalls == before
    assert tiny.frame(1) == (0x82 * 8 + 2,)


def test_an_event_is_delivered_and_masks() -> None:
    tiny = Tiny32(handler("nop", "u: jmp u\n"))
    tiny.domain.event_callback = Callback(VA(tiny.at("h")), False, CS1)
    tiny.go_user("u")
    tiny.hv.machine.memory.bytes[tiny.domain.shared_info << PAGE_SHIFT] = 1
    tiny.hv.run(1000)
    assert tiny.handled == 1
    assert tiny.upcall_mask == 1
    assert tiny.frame(2) == (tiny.at("u"), CS3)


# -- iret ------------------------------------------------------------------------------------


def test_iret_to_ring_3() -> None:
    tiny = Tiny32("nop")
    tiny.iret(0x1234, CS3, 0x9999, SS3, eflags=RFLAGS_IOPL, eax=7)
    words = tiny.words
    assert (words[RAX], words[RIP], words[RSP]) == (7, 0x1234, 0x9999)
    assert (tiny.cpu.selector(CS), tiny.cpu.selector(SS), tiny.cpu.cpl) == (CS3, SS3, 3)
    assert tiny.cpu.flags == RFLAGS_IF | 2
    assert tiny.upcall_mask == 1
    assert not tiny.domain.kernel_mode


def test_iret_within_ring_1_keeps_the_stack() -> None:
    tiny = Tiny32("nop")
    tiny.iret(0x5000, CS1, eflags=RFLAGS_AC | RFLAGS_IF | RFLAGS_NT)
    assert tiny.domain.kernel_mode
    assert tiny.cpu.flags == RFLAGS_AC | RFLAGS_IF | 2
    assert tiny.words[RSP] == tiny.stack - 0x400 + 16
    assert tiny.upcall_mask == 0


def test_iret_by_the_hypercall_and_natively() -> None:
    for back in ("mov eax, 23\n int 0x82", "pop eax\n iretd"):
        text = "sub esp, 64\n push SS3\n push USTACK\n push 0x202\n push CS3\n push offset u\n"
        text = text.replace("SS3", f"{SS3:#x}").replace("CS3", f"{CS3:#x}")
        tiny = Tiny32(
            f"{text} push 77\n {back}\nu: mov ebx, 3\n mov esi, esp\n int3\nh: mov edi, 1"
        )
        tiny.trap(BP, "h", 3)
        tiny.run()
        assert tiny.handled == 3
        assert tiny.words[RAX] == 77
        assert tiny.frame(2)[1] == CS3
        assert tiny.domain.kernel_mode


def test_single_steps_survive_iret() -> None:
    tiny = Tiny32(handler("nop", "u: nop\nf: nop\n jmp done"))
    tiny.trap(DB, "h")
    tiny.go_user("u", RFLAGS_IF | RFLAGS_TF)
    tiny.run()
    assert tiny.frame(3)[0] == tiny.at("f")
    assert tiny.frame(3)[2] & RFLAGS_TF
    assert not tiny.cpu.flags & RFLAGS_TF


@pytest.mark.parametrize(
    ("cs", "ss", "error"),
    [
        (3, SS3, 0),
        (CS3, 0, 0),
        (SS3, SS3, SS3 & ~3),
        (CS3, CS3, CS3 & ~3),
        (CS3, SS1, SS1 & ~3),
        (0x1233, SS3, 0x1230),
        (0xE037 - 4, SS3, 0xE030),
        (int(Flat64.RING3_CS64) | 4, SS3, 0xE034),
        (7, SS3, 4),
    ],
)
def test_a_state_that_cannot_be_entered_faults_in_that_state(cs: int, ss: int, error: int) -> None:
    tiny = Tiny32(handler("nop"))
    tiny.trap(GP, "h", TI_IF)
    tiny.iret(0x1000, cs, 0x7777, ss)
    assert not tiny.crashed
    assert tiny.domain.kernel_mode
    assert tiny.frame(3) == (error, 0x1000, cs)
    assert tiny.frame(6)[4:] == (0x7777, ss)
    assert tiny.words[RSP] == tiny.domain.kernel_sp - 24
    assert tiny.upcall_mask == 1
    tiny.run()
    assert tiny.handled == 1


def test_iret_to_an_absent_segment() -> None:
    tiny = Tiny32(handler("nop"))
    tiny.trap(NP, "h")
    assert tiny.gdt((CODE_1 | 3 << 45) & ~(1 << 47), DATA_1) == 0
    tiny.iret(0x1000, 0xB, 0x7777, SS3)
    assert tiny.frame(1) == (8,)


def test_iret_to_virtual_8086_mode_is_gp() -> None:
    tiny = Tiny32(handler("nop"))
    tiny.trap(GP, "h")
    tiny.iret(0x1234, 0x5678, 0x9ABC, 0x100, RFLAGS_VM | RFLAGS_IF)
    assert tiny.words[RSP] == tiny.domain.kernel_sp - 40
    assert tiny.frame(6) == (0, 0x1234, 0x5678, RFLAGS_VM | RFLAGS_IF, 0x9ABC, 0x100)
    tiny.run()
    assert tiny.handled == 1
    assert not tiny.cpu.flags & RFLAGS_VM


def test_iret_crashes() -> None:
    tiny = Tiny32("nop")
    tiny.words[RSP] = NO_PAGE
    tiny.hv.dispatch.invoke(tiny.domain, Hypercall.iret, [0] * 6)
    assert "cannot be read" in tiny.crashed
    tiny = Tiny32("nop")
    tiny.iret(0x1000, CS1 & ~3)
    assert "ring 0" in tiny.crashed
    tiny = Tiny32("nop")
    tiny.iret(0x1000, 0x9, 0, 0)
    assert "unhandled #GP" in tiny.crashed


# -- segments --------------------------------------------------------------------------------


def test_no_64_bit_code_segment() -> None:
    """It would reach the hypervisor's addresses, of which ring 1 is the supervisor."""
    tiny = Tiny32("nop")
    assert tiny.gdt(CODE_1 & ~(1 << 54) | LONG) == -Errno.EINVAL
    tiny = Tiny32("nop")
    assert tiny.gdt(CODE_1) == 0
    at = tiny.mfn(SPARE) << PAGE_SHIFT | 8
    descriptor = CODE_1 & ~(1 << 54) | LONG
    assert tiny.call(Hypercall.update_descriptor, at, descriptor) == -Errno.EINVAL
    for selector in (int(Flat64.RING3_CS64), int(Flat64.RING3_CS64) & ~2):
        found = tiny.hv.traps.descriptors.find(tiny.domain, selector)
        assert not found & LONG


def test_descriptors_get_a_ring_and_flat_ones_their_end() -> None:
    tiny = Tiny32("nop")
    short = 0x00CE_9300_0000_FFFF
    assert tiny.gdt(0x00CF_9B00_0000_FFFF, 0x00CF_D300_0000_FFFF, short) == 0
    words = tiny.hv.machine.memory.words[(tiny.mfn(SPARE) << 9) : (tiny.mfn(SPARE) << 9) + 4]
    assert [word >> 45 & 3 for word in words.tolist()[1:]] == [1, 2, 1]
    end = 0xF67F_F  # up to 0xf6800000, as old kernels have it
    limited = 0x00C0_9300_0000_0000 | end & 0xFFFF | (end >> 16) << 48
    assert tiny.call(Hypercall.update_descriptor, tiny.mfn(SPARE) << PAGE_SHIFT | 8, limited) == 0
    assert tiny.hv.machine.memory.words[(tiny.mfn(SPARE) << 9) + 1] == 0x00CF_B300_0000_FFFF


def test_loading_segments_just_works() -> None:
    tiny = Tiny32(
        handler("mov eax, 0x11\n mov ds, eax\n mov eax, [SPARE]\n mov eax, 0x19\n mov fs, eax")
    )
    tiny.trap(GP, "h")
    assert tiny.gdt(CODE_1, DATA_1) == 0
    tiny.run()
    assert tiny.cpu.selector(DS) == 0x11
    assert tiny.handled == 1
    assert tiny.frame(1) == (0x18,)


def test_set_callbacks_takes_selectors() -> None:
    tiny = Tiny32("nop")
    assert tiny.call(Hypercall.set_callbacks, 0x18, 0x1000, 0xE01B, 0x2000) == 0
    assert tiny.domain.event_callback == Callback(VA(0x1000), False, 0x19)
    assert tiny.domain.failsafe_callback == Callback(VA(0x2000), False, 0xE01B)


def test_task_switched() -> None:
    tiny = Tiny32(handler("nop\nf: fninit"))
    tiny.trap(NM, "h")
    assert tiny.call(Hypercall.fpu_taskswitch, 1) == 0
    tiny.run()
    assert tiny.frame(1) == (tiny.at("f"),)
    assert not tiny.domain.cr0_ts


def test_privileged_instructions() -> None:
    """Ring 1 has no privilege either: what Xen emulates is emulated, the rest is #GP."""
    emulated = ["mov eax, cr0", "mov eax, cr3", "mov eax, cr4", "clts", "mov eax, dr7", "wbinvd"]
    for text in emulated:
        tiny = Tiny32(handler(f"{text}\nmov ebx, 9\njmp done"))
        tiny.trap(GP, "h")
        tiny.run()
        assert tiny.handled == 9, text
    for text in ("hlt", "cli", "sti", "in al, 0x60", "out 0x60, al", "mov cr2, eax\n hlt"):
        tiny = Tiny32(handler(text))
        tiny.trap(GP, "h")
        tiny.run()
        assert tiny.handled == 1, text
        assert tiny.frame(1) == (0,)
    tiny = Tiny32(handler("in al, 0x60\n cli\n sti\n mov ebx, 9\n jmp done"))
    tiny.trap(GP, "h")
    tiny.domain.iopl = 1
    tiny.run()
    assert tiny.handled == 9


def test_cr3_is_of_that_width() -> None:
    tiny = Tiny32(
        "mov eax, cr3\n mov ebx, eax\n mov cr3, eax\n mov eax, cr3\n cmp eax, ebx\n sete cl"
    )
    refs = tiny.hv.frames.refs[tiny.space.l3]
    tiny.run()
    assert tiny.words[RBX] == tiny.space.l3 << PAGE_SHIFT
    assert tiny.words[RAX] == tiny.words[RBX]
    assert tiny.hv.frames.refs[tiny.space.l3] == refs


def test_forced_cpuid_shows_no_long_mode() -> None:
    tiny = Tiny32(
        'mov eax, 0x80000001\n ud2\n .ascii "xen"\n cpuid\n mov ebp, edx\n mov eax, 1\n cpuid'
    )
    tiny.run()
    assert not tiny.words[5] & 1 << 29
    assert not tiny.words[5] & 1 << 11
    assert tiny.words[5] & 1 << 20
    assert not tiny.words[1] & 1 << 13


def test_the_segment_bases_are_64_bit_guests_alone() -> None:
    tiny = Tiny32(handler("mov ecx, 0xc0000100\n rdmsr"))
    tiny.trap(GP, "h")
    assert tiny.call(Hypercall.set_segment_base, 0, 0) == -Errno.ENOSYS
    tiny.run()
    assert tiny.handled == 1


def test_no_page_of_the_stack_is_special() -> None:
    tiny = Tiny32(handler("mov esp, SPARE + 64\n push 5\n int3"))
    tiny.trap(BP, "h")
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RW & ~4) == 0
    tiny.run()
    assert tiny.handled == 1
    assert tiny.mfn(CODE)


def test_virtual_8086_mode_is_left_for_good() -> None:
    """This engine's IRETD enters it, with the IOPL that the frame says; the next trap ends it."""
    text = (
        "push 0\n push 0\n push 0\n push 0\n push 0\n push 0x400\n push 0x23202\n push 0\n push 0\n"
    )
    tiny = Tiny32(handler(f"{text} iretd"))
    for vector in range(20):
        tiny.trap(vector, "h")
    tiny.run()
    assert tiny.handled == 1, tiny.crashed
    assert (tiny.cpu.bits, tiny.cpu.cpl) == (32, 1)
    assert tiny.cpu.flags & (RFLAGS_VM | RFLAGS_IOPL) == 0
