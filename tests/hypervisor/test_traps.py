"""Bounce frames, gates, mode switches, descriptors: what a guest's handlers see."""

import pytest

from emu.cpu import CS, GS, R11, RAX, RBX, RCX, RDI, RIP, RSP, SS
from emu.paging import RFLAGS_AC, RFLAGS_DF, RFLAGS_IF, RFLAGS_TF
from emu.trap import BP, DB, DE, GP, NM, NP, PF, UD
from emu.trap import SS as STACK_FAULT
from emu.units import PAGE_SHIFT, VA
from hypervisor.abi import (
    HYPERVISOR_VIRT_START,
    TI_IF,
    Flat64,
    Hypercall,
    Vgcf,
)
from hypervisor.descriptors import GDT_BASE
from hypervisor.domain import Callback
from tests.hypervisor.handmade import RO
from tests.hypervisor.tiny import (
    CODE,
    CODE32,
    CS64,
    DATA,
    DATA64,
    NO_PAGE,
    SPARE,
    SS64,
    USER_STACK,
    Tiny,
    handler,
)

# -- page faults -----------------------------------------------------------------------------


def test_page_fault_frame_in_kernel_mode() -> None:
    tiny = Tiny(handler(f"mov rcx, 0x77\n mov r11, 0x88\nf: mov rax, [{NO_PAGE:#x}]"))
    tiny.trap(PF, "h")
    before = tiny.words[RSP]
    tiny.run()
    assert not tiny.crashed
    rcx, r11, error, rip, cs, flags, sp, ss = tiny.frame()
    assert (rcx, r11, error, rip) == (0x77, 0x88, 0, tiny.at("f"))
    assert cs == CS64 & ~3
    assert flags & RFLAGS_IF
    assert (sp, ss) == (before, SS64)
    assert tiny.words[RSP] == before - 64
    assert tiny.cr2 == NO_PAGE
    assert tiny.words[RBX] == 1
    assert tiny.words[RCX] == tiny.at("h")


def test_stack_is_aligned_down_to_sixteen() -> None:
    tiny = Tiny(handler(f"sub rsp, 9\n mov rax, [{NO_PAGE:#x}]"))
    tiny.trap(PF, "h")
    tiny.run()
    assert tiny.words[RSP] == tiny.stack - 16 - 64
    assert tiny.frame()[6] == tiny.stack - 9


def test_masking_gate_pushes_the_old_mask_and_sets_it() -> None:
    tiny = Tiny(handler(f"mov rax, [{NO_PAGE:#x}]"))
    tiny.trap(PF, "h", TI_IF)
    tiny.run()
    assert tiny.upcall_mask == 1
    assert tiny.frame()[4] >> 32 == 0
    assert tiny.frame()[5] & RFLAGS_IF


def test_masked_events_show_as_a_clear_if() -> None:
    tiny = Tiny(handler(f"mov rax, [{NO_PAGE:#x}]"))
    tiny.trap(PF, "h")
    tiny.hv.traps.set_upcall_mask(tiny.domain, True)
    tiny.run()
    assert tiny.frame()[4] == 1 << 32 | CS64 & ~3
    assert not tiny.frame()[5] & RFLAGS_IF
    assert tiny.cpu.flags & RFLAGS_IF


def test_page_fault_from_user_mode_switches_stack_table_and_gs() -> None:
    tiny = Tiny(handler("nop", f"u: mov rax, [{NO_PAGE:#x}]\n jmp done"), user_space=True)
    tiny.trap(PF, "h")
    tiny.cpu.set_segment_base(GS, 0x1000)
    tiny.cpu.kernel_gs_base = 0x2000
    tiny.go_user("u")
    assert not tiny.domain.kernel_mode
    assert tiny.cpu.table == tiny.user.l4
    assert (tiny.cpu.segment_base(GS), tiny.cpu.kernel_gs_base) == (0x2000, 0x1000)
    tiny.run()
    assert tiny.domain.kernel_mode
    assert tiny.cpu.table == tiny.space.l4
    assert (tiny.cpu.segment_base(GS), tiny.cpu.kernel_gs_base) == (0x1000, 0x2000)
    _, _, error, rip, cs, _, sp, _ = tiny.frame()
    assert (error, rip, cs) == (4, tiny.at("u"), CS64)
    assert sp == tiny.va(USER_STACK) + 4096
    assert tiny.words[RSP] == tiny.domain.kernel_sp - 64


def test_write_to_a_shared_page_is_counted_and_delivered() -> None:
    tiny = Tiny(handler(f"mov qword ptr [{0x4000_4010:#x}], 5"))
    tiny.trap(PF, "h")
    assert tiny.share(SPARE, 0x400) == 0
    seen: list[tuple[str, dict[str, object]]] = []
    tiny.hv.listeners.append(lambda kind, domain, details: seen.append((kind, details)))
    tiny.run()
    assert tiny.frame()[2] == 3
    assert tiny.domain.counters["cow_faults"] == 1
    cow = [details for kind, details in seen if kind == "cow_fault"]
    assert cow == [{"va": 0x4000_4010, "mfn": tiny.mfn(SPARE), "avl": 0x400}]


def test_a_share_without_the_mark_is_recognised_and_a_forged_mark_is_not() -> None:
    tiny = Tiny(handler(f"mov qword ptr [{0x4000_4010:#x}], 5"))
    tiny.trap(PF, "h")
    assert tiny.share(SPARE, 0) == 0
    tiny.run()
    assert tiny.domain.counters["cow_faults"] == 1
    other = Tiny(handler(f"mov qword ptr [{0x4000_4010:#x}], 5"))
    other.trap(PF, "h")
    assert other.update(SPARE, other.mfn(SPARE) << PAGE_SHIFT | RO | 0x400) == 0
    other.run()
    assert other.frame()[2] == 3
    assert other.domain.counters["cow_faults"] == 0


# -- what cannot be delivered ----------------------------------------------------------------


def test_no_handler_is_a_crash_with_a_report() -> None:
    tiny = Tiny(f"mov rax, [{NO_PAGE:#x}]")
    tiny.run()
    report = tiny.crashed
    assert "unhandled #PF" in report
    assert f"{NO_PAGE:#x}" in report
    assert "mov rax, qword ptr" in report
    assert "not present" in report
    assert tiny.domain.exit is not None
    assert tiny.domain.exit.reason == "crash"


@pytest.mark.parametrize(
    "sp", [NO_PAGE, HYPERVISOR_VIRT_START + 0x1000, 0x0000_8000_0000_1000, 8, 0x4100_0008, 1 << 47]
)
def test_a_stack_that_cannot_be_written_is_a_double_fault(sp: int) -> None:
    tiny = Tiny(handler("int3"))
    tiny.trap(BP, "h")
    tiny.words[RSP] = sp
    tiny.run()
    assert "double fault" in tiny.crashed
    assert "rip" in tiny.crashed


def test_a_read_only_stack_is_a_double_fault_and_changes_nothing() -> None:
    tiny = Tiny(handler("int3"))
    tiny.trap(BP, "h")
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RO) == 0
    before = tiny.contents(SPARE)
    tiny.words[RSP] = tiny.va(SPARE) + 0x800
    tiny.run()
    assert "double fault" in tiny.crashed
    assert tiny.contents(SPARE) == before


def test_a_frame_across_two_pages() -> None:
    tiny = Tiny(handler("int3"))
    tiny.trap(BP, "h")
    tiny.words[RSP] = tiny.va(SPARE) + 16
    tiny.run()
    assert tiny.frame(7)[2] == tiny.va(CODE) + 1
    assert tiny.frame(7)[5] == tiny.va(SPARE) + 16


def test_recursive_faults_end_at_the_end_of_the_stack() -> None:
    tiny = Tiny(f"f: mov rax, [{NO_PAGE:#x}]")
    tiny.trap(PF, "f")
    assert tiny.update(DATA, 0) == 0
    tiny.run(5000)
    assert "double fault" in tiny.crashed


# -- gates -----------------------------------------------------------------------------------


def test_exceptions_of_every_shape() -> None:
    tiny = Tiny(handler("xor ecx, ecx\n xor edx, edx\nf: div ecx"))
    tiny.trap(DE, "h")
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("f")
    tiny = Tiny(handler("f: ud2"))
    tiny.trap(UD, "h")
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("f")


def test_int3_needs_no_privilege() -> None:
    tiny = Tiny(handler("nop", "u: int3\nafter: jmp done"), user_space=True)
    tiny.trap(BP, "h", 0)
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("after")
    assert tiny.domain.kernel_mode


@pytest.mark.parametrize(
    ("kernel", "dpl", "delivered"),
    [(True, 0, False), (True, 1, True), (True, 3, True), (False, 1, False), (False, 3, True)],
)
@pytest.mark.parametrize("vector", [0x21, 6, 13, 14, 200])
def test_int_n_checks_the_gate(vector: int, kernel: bool, dpl: int, delivered: bool) -> None:
    text = f"u: int {vector}\nafter: jmp done\nh: mov rbx, 1\n jmp done\ng: mov rbx, 2\n jmp done"
    tiny = Tiny(text, user_space=True)
    tiny.trap(GP, "g")
    tiny.trap(vector, "h", dpl)
    if vector == GP and not delivered:
        tiny.trap(GP, "g", dpl)
    if not kernel:
        tiny.go_user("u")
    tiny.run()
    assert not tiny.crashed
    if delivered:
        assert tiny.words[RBX] == 1
        assert tiny.frame(7)[2] == tiny.at("after")
    else:
        assert tiny.words[RBX] == 2
        assert tiny.frame()[2:4] == (vector * 8 + 2, tiny.at("u"))


def test_int80_is_open_if_there_is_a_handler() -> None:
    text = "u: int 0x80\nafter: jmp done\nh: mov rbx, 1\n jmp done\ng: mov rbx, 2\n jmp done"
    for registered in (True, False):
        tiny = Tiny(text, user_space=True)
        tiny.trap(GP, "g")
        if registered:
            tiny.trap(0x80, "h", 0)
        tiny.go_user("u")
        tiny.run()
        assert tiny.words[RBX] == (1 if registered else 2)
        if not registered:
            assert tiny.frame()[2:4] == (0x80 * 8 + 2, tiny.at("u"))


def test_single_step_reaches_the_guest() -> None:
    tiny = Tiny(handler("nop\nf: nop\n nop"))
    tiny.trap(DB, "h")
    tiny.cpu.flags = RFLAGS_IF | RFLAGS_TF
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("f")
    assert tiny.frame(7)[4] & RFLAGS_TF
    assert not tiny.cpu.flags & RFLAGS_TF
    assert tiny.call(Hypercall.get_debugreg, 6) & 1 << 14


def test_device_not_available_clears_ts() -> None:
    tiny = Tiny(handler("nop\nf: fninit"))
    tiny.trap(NM, "h")
    assert tiny.call(Hypercall.fpu_taskswitch, 1) == 0
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("f")
    assert not tiny.domain.cr0_ts
    assert not tiny.cpu.cr0 & 8


# -- system calls, events, iret --------------------------------------------------------------


def test_syscall_from_user_enters_the_callback() -> None:
    text = handler("nop", "u: std\n mov rdi, 5\nf: syscall\nafter: jmp done")
    tiny = Tiny(text, user_space=True)
    tiny.domain.syscall_callback = Callback(VA(tiny.at("h")), masks_events=True)
    tiny.go_user("u")
    tiny.run()
    rcx, r11, rip, cs, flags, sp, ss = tiny.frame(7)
    assert (rcx, rip, cs, ss) == (tiny.at("after"), tiny.at("after"), CS64, SS64)
    assert r11 & RFLAGS_DF
    assert flags & RFLAGS_DF
    assert not tiny.cpu.flags & RFLAGS_DF
    assert sp == tiny.va(USER_STACK) + 4096
    assert tiny.words[RDI] == 5
    assert tiny.upcall_mask == 1


def test_syscall_from_user_without_callback_is_ud_at_the_instruction() -> None:
    tiny = Tiny(handler("nop", "u: nop\nf: syscall\n jmp done"), user_space=True)
    tiny.trap(UD, "h")
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("f")


def test_sysenter_has_no_return_address() -> None:
    tiny = Tiny(handler("nop", "u: sysenter\n jmp done"), user_space=True)
    tiny.domain.sysenter_callback = Callback(VA(tiny.at("h")))
    tiny.go_user("u")
    tiny.run()
    assert tiny.words[RBX] == 1
    assert tiny.frame(7)[2:4] == (0, 3)
    tiny = Tiny(handler("nop", "u: sysenter\n jmp done"), user_space=True)
    tiny.trap(GP, "h")
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame()[2:5] == (0, 0, 3)


def test_iret_restores_everything_in_user_mode() -> None:
    tiny = Tiny("nop", user_space=True)
    assert tiny.iret(rip=0x1234, cs=CS64, rsp=0x9999, rflags=0, rax=7) is None
    words = tiny.words
    assert (words[RAX], words[R11], words[RCX], words[RIP]) == (7, 0x11, 0xCC, 0x1234)
    assert words[RSP] == 0x9999
    assert tiny.cpu.flags & RFLAGS_IF
    assert tiny.upcall_mask == 1
    assert not tiny.domain.kernel_mode


def test_iret_in_kernel_mode_and_as_sysret() -> None:
    tiny = Tiny("nop")
    flags = RFLAGS_AC | RFLAGS_IF | 3 << 12 | 1 << 17
    tiny.iret(rip=0x5000, cs=CS64 & ~3, ss=0, rsp=0x77, rflags=flags, how=Vgcf.in_syscall)
    assert tiny.domain.kernel_mode
    assert tiny.cpu.flags == RFLAGS_AC | RFLAGS_IF | 2
    assert tiny.words[RCX] == 0x5000
    assert tiny.words[R11] == tiny.cpu.flags
    assert (tiny.cpu.selector(CS), tiny.cpu.selector(SS)) == (CS64, SS64)


def test_iret_to_32_bit_code() -> None:
    tiny = Tiny("nop", user_space=True)
    tiny.iret(rip=0x4000_0000, cs=Flat64.USER_CS32, rsp=0x4000_3000)
    assert tiny.cpu.bits == 32
    assert tiny.cpu.cpl == 3
    assert not tiny.domain.kernel_mode


@pytest.mark.parametrize(
    ("cs", "ss", "rip", "error"),
    [
        (0, SS64, 0x1000, 0),
        (CS64, 0, 0x1000, 0),
        (SS64, SS64, 0x1000, SS64 & ~3),
        (CS64, CS64, 0x1000, CS64 & ~3),
        (0x1233, SS64, 0x1000, 0x1230),
        (0xE03F, SS64, 0x1000, 0xE03C),
        (CS64, SS64, 1 << 47, 0),
        (Flat64.USER_CS32, SS64, 1 << 32, 0),
        (7, SS64, 0x1000, 4),
    ],
)
@pytest.mark.parametrize("user", [True, False])
def test_a_state_that_cannot_be_entered_faults_in_that_state(
    cs: int, ss: int, rip: int, error: int, user: bool
) -> None:
    tiny = Tiny(handler("nop"), user_space=True)
    tiny.trap(GP, "h", TI_IF)
    cs = cs | 3 if user else cs & ~3
    rsp = tiny.stack - 0x200
    tiny.iret(rip=rip, cs=cs, ss=ss, rsp=rsp)
    assert not tiny.crashed
    assert tiny.domain.kernel_mode
    assert tiny.frame()[2:5] == (error, rip, cs)
    assert tiny.frame()[6:] == (rsp, ss | 3)
    assert tiny.words[RSP] == (tiny.domain.kernel_sp if user else rsp) - 64
    assert tiny.upcall_mask == 1
    tiny.run()
    assert tiny.words[RBX] == 1


def test_iret_to_an_absent_segment() -> None:
    for vector, cs, ss in ((NP, 0x8, SS64), (STACK_FAULT, CS64 & ~3, 0x13)):
        tiny = Tiny(handler("nop"))
        tiny.trap(vector, "h")
        assert tiny.gdt(CODE32 & ~(1 << 47), DATA64 & ~(1 << 47)) == 0
        tiny.iret(rip=0x1000, cs=cs, ss=ss, rsp=tiny.stack)
        assert tiny.frame()[2] == (cs if vector == NP else ss) & ~3


def test_iret_crashes() -> None:
    tiny = Tiny("nop")
    tiny.iret(rip=0x1000, cs=CS64, rsp=0)
    assert "without a user page table" in tiny.crashed
    tiny = Tiny("nop")
    tiny.words[RSP] = NO_PAGE
    tiny.hv.dispatch.invoke(tiny.domain, Hypercall.iret, [0] * 6)
    assert "cannot be read" in tiny.crashed
    tiny = Tiny("nop")
    tiny.iret(rip=1 << 47, cs=CS64 & ~3, rsp=0)
    assert "unhandled #GP" in tiny.crashed


def test_an_event_is_delivered_and_masks() -> None:
    tiny = Tiny(handler("again: mov eax, 17\n mov edi, 0\n syscall\n jmp again"))
    tiny.domain.event_callback = Callback(VA(tiny.at("h")))
    shared = tiny.domain.shared_info << PAGE_SHIFT
    tiny.hv.machine.memory.bytes[shared] = 1
    tiny.run()
    assert tiny.words[RBX] == 1
    assert tiny.upcall_mask == 1
    assert tiny.frame(7)[4] & RFLAGS_IF


# -- the crash report ------------------------------------------------------------------------


@pytest.mark.parametrize("rip", [0, 1 << 47, (1 << 64) - 1, GDT_BASE, HYPERVISOR_VIRT_START])
def test_a_report_of_any_state(rip: int) -> None:
    tiny = Tiny("nop")
    for register in range(16):
        tiny.words[register] = rip
    tiny.words[RIP] = rip
    tiny.cpu.cr2 = rip
    tiny.hv.crash(tiny.domain, "test")
    assert "crashed: test" in tiny.crashed
