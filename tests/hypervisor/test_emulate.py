"""Privileged instructions of a guest's kernel: carried out as Xen does, or #GP for the guest."""

import pytest

from emu.asm import assemble_bytes
from emu.cpu import RAX, RBX, RCX, RDI, RDX, RIP
from emu.paging import RFLAGS_IF, RFLAGS_TF
from emu.trap import DB, GP, UD
from emu.units import PAGE_SHIFT
from hypervisor.abi import Errno, Hypercall, VmAssist
from hypervisor.cpuid import XEN_LEAVES
from hypervisor.emulate import decode
from tests.hypervisor.tiny import DATA, SPARE, Tiny

HANDLERS = "\n mov rbx, 9\n jmp done\nh: mov rbx, 1\n jmp done\nud: mov rbx, 2\n jmp done"


def ran(text: str, user: bool = False, iopl: int = 0) -> Tiny:
    """Run ``text`` as kernel or user code; RBX is 9 if it got through, 1 after #GP, 2 after #UD."""
    tiny = Tiny("u: " + text + HANDLERS, user_space=user)
    tiny.trap(GP, "h")
    tiny.trap(UD, "ud")
    tiny.domain.iopl = iopl
    if user:
        tiny.go_user("u")
    tiny.run()
    assert not tiny.crashed
    return tiny


GOES = [
    *("clts", "wbinvd", "mov rax, cr0", "mov rax, cr2", "mov rax, cr3", "mov rax, cr4"),
    *("mov rax, dr7", "mov rdx, dr0", "mov rax, cr3\n mov cr3, rax"),
    *("mov rax, cr4\n mov cr4, rax", "mov rax, cr0\n mov cr0, rax"),
    "mov ecx, 0xc0000080\n rdmsr",
    "mov ecx, 0xc0000100\n mov eax, 5\n xor edx, edx\n wrmsr",
]
FAULTS = [
    *("hlt", "invlpg [rsp]", "invd", "swapgs", "lgdt [rsp]", "lidt [rsp]", "ltr ax", "lldt ax"),
    *("lmsw ax", "mov rax, cr8", "mov cr8, rax", "rdpmc", "cli", "sti", "in al, dx"),
    *("out dx, al", "mov ecx, 0x1234\n rdmsr", "mov ecx, 0xc0000082\n wrmsr"),
    *("xor eax, eax\n mov cr0, rax", "mov eax, 0x123000\n mov cr3, rax", "sysretq", "iretq"),
    "mov rax, -1\n mov dr7, rax",
]


@pytest.mark.parametrize("text", GOES)
def test_the_kernel_may(text: str) -> None:
    assert ran(text).words[RBX] == 9


@pytest.mark.parametrize("text", GOES)
def test_user_mode_may_not(text: str) -> None:
    tiny = ran(text, user=True)
    assert tiny.words[RBX] == 1
    assert tiny.frame()[2] == 0


@pytest.mark.parametrize("text", FAULTS)
def test_what_xen_does_not_emulate_is_gp(text: str) -> None:
    assert ran(text).words[RBX] == 1


def test_control_registers_show_the_guests_view() -> None:
    tiny = ran("mov rax, cr3\n mov rdx, cr0\n mov rcx, cr4\n mov rdi, cr2")
    assert tiny.words[RAX] == tiny.space.l4 << PAGE_SHIFT
    assert tiny.words[RDX] & 0x8001_0001 == 0x8001_0001
    assert tiny.words[RCX] & 0x620 == 0x620


def test_cr0_ts_and_clts() -> None:
    tiny = ran("mov rax, cr0\n or eax, 8\n mov cr0, rax")
    assert tiny.domain.cr0_ts
    assert tiny.cpu.cr0 & 8
    tiny = ran("mov rax, cr0\n or eax, 8\n mov cr0, rax\n clts")
    assert not tiny.domain.cr0_ts
    assert not tiny.cpu.cr0 & 8


def test_cr2_is_in_shared_info() -> None:
    tiny = ran("mov eax, 0x123\n mov cr2, rax\n mov rdi, cr2")
    assert tiny.cr2 == 0x123
    assert tiny.words[RDI] == 0x123


def test_cr3_is_a_new_base_pointer() -> None:
    tiny = Tiny("mov rax, [DATA]\n mov cr3, rax\n mov rdi, cr3" + HANDLERS, user_space=True)
    refs = tiny.hv.frames.refs
    before = refs[tiny.space.l4], refs[tiny.user.l4]
    tiny.write(tiny.va(DATA), (tiny.user.l4 << PAGE_SHIFT).to_bytes(8, "little"))
    tiny.run()
    assert tiny.domain.table == tiny.user.l4
    assert tiny.cpu.table == tiny.user.l4
    assert tiny.words[RDI] == tiny.user.l4 << PAGE_SHIFT
    assert (refs[tiny.space.l4], refs[tiny.user.l4]) == (before[0] - 1, before[1] + 1)


def test_cr4_keeps_to_the_bits_of_the_guest() -> None:
    tiny = ran("mov rax, -1\n mov cr4, rax\n mov rax, cr4")
    assert tiny.words[RAX] == 0x1_066C  # what it may set, and what it sees in any case
    assert not tiny.cpu.cr4 >> 20  # neither SMEP nor anything above
    assert ran("mov rax, cr4\n or eax, 8\n mov cr4, rax\n mov rax, dr4").words[RBX] == 2


def test_time_stamp_disable_binds_user_mode_only() -> None:
    kernel = "mov rax, cr4\n or eax, 4\n mov cr4, rax\n rdtsc\n mov ecx, 1\n rdtscp"
    tiny = ran(kernel)
    assert tiny.words[RBX] == 9
    assert tiny.words[RAX] > 0
    assert tiny.words[RCX] == 0
    tiny = Tiny("u: rdtsc" + HANDLERS, user_space=True)
    tiny.trap(GP, "h")
    tiny.cpu.cr4 |= 4
    tiny.go_user("u")
    tiny.run()
    assert tiny.words[RBX] == 1


def test_segment_base_msrs() -> None:
    tiny = ran(
        "mov ecx, 0xc0000102\n mov eax, 0x77\n mov edx, 1\n wrmsr\n xor eax, eax\n xor edx, edx\n"
        " rdmsr"
    )
    assert tiny.cpu.kernel_gs_base == 0x1_0000_0077
    assert (tiny.words[RAX], tiny.words[RDX]) == (0x77, 1)
    tiny = ran("mov ecx, 0xc0000101\n xor eax, eax\n mov edx, 0x8000\n wrmsr")
    assert tiny.words[RBX] == 1


@pytest.mark.parametrize(
    ("number", "value"), [(0x1B, 0xFEE0_0900), (0xC000_0080, 0xD01), (0x277, 0x0005_0100_0704_06)]
)
def test_constant_msrs(number: int, value: int) -> None:
    tiny = ran(f"mov ecx, {number:#x}\n rdmsr")
    assert tiny.words[RDX] << 32 | tiny.words[RAX] == value


@pytest.mark.parametrize(("iopl", "user", "through"), [(1, False, 9), (2, True, 1), (3, True, 9)])
@pytest.mark.parametrize("text", ["cli", "sti", "in eax, dx", "out dx, ax"])
def test_iopl(text: str, iopl: int, user: bool, through: int) -> None:
    tiny = ran(text, user=user, iopl=iopl)
    assert tiny.words[RBX] == through
    assert tiny.upcall_mask == 0


def test_architectural_iopl_counts_the_kernel_as_ring_zero() -> None:
    tiny = Tiny("cli" + HANDLERS)
    tiny.trap(GP, "h")
    tiny.domain.vm_assist = 1 << VmAssist.architectural_iopl
    tiny.run()
    assert tiny.words[RBX] == 9


def test_ports_read_ones_and_two_of_them_remember() -> None:
    text = (
        "mov rax, 0x1122334455667788\n in al, 0x60\n mov rdi, rax\n mov edx, 0xcf8\n"
        " mov eax, 0x80000010\n out dx, eax\n xor eax, eax\n in eax, dx\n mov rcx, rax\n"
        " mov al, 0x0b\n out 0x70, al\n xor eax, eax\n in al, 0x70"
    )
    tiny = ran(text, iopl=1)
    assert tiny.words[RDI] == 0x1122_3344_5566_77FF
    assert tiny.words[RCX] == 0x8000_0010
    assert tiny.words[RAX] == 0x0B


def test_string_input_fills_memory() -> None:
    text = "mov rdi, DATA\n mov ecx, 6\n mov edx, 0x10\n cld\n rep insw\n outsb"
    tiny = ran("mov rsi, DATA\n" + text, iopl=1)
    assert tiny.words[RBX] == 9
    assert tiny.read(tiny.va(DATA), 16) == b"\xff" * 12 + bytes(4)
    assert tiny.words[RCX] == 0
    assert tiny.words[RDI] == tiny.va(DATA) + 12


def test_forced_emulation_in_both_modes_and_native_cpuid() -> None:
    forced = ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e\n cpuid\n mov rdi, rbx"
    for text in (forced, "cpuid\n mov rdi, rbx"):
        for user in (False, True):
            tiny = ran(f"mov eax, {XEN_LEAVES:#x}\n xor ecx, ecx\n {text}", user=user)
            assert tiny.words[RBX] == 9
            name = b"".join(tiny.words[r].to_bytes(4, "little") for r in (RDI, RCX, RDX))
            assert name == b"XenVMMXenVMM"
            assert tiny.words[RAX] == XEN_LEAVES + 5
    assert ran(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e\n nop").words[RBX] == 2


def test_cpuid_says_nothing_of_random_numbers() -> None:
    tiny = ran("mov eax, 1\n cpuid\n mov rdi, rcx")
    assert not tiny.words[RDI] & 1 << 30
    assert tiny.words[RDI] >> 31
    tiny = ran("mov eax, 7\n xor ecx, ecx\n cpuid\n mov rdi, rbx")
    assert not tiny.words[RDI] & 1 << 18


def test_debug_registers_through_both_doors() -> None:
    tiny = ran("mov eax, 0x5000\n mov dr1, rax\n mov rdi, dr1\n mov rdx, dr6\n mov rcx, dr7")
    assert tiny.words[RDI] == 0x5000
    assert (tiny.words[RDX], tiny.words[RCX]) == (0xFFFF_0FF0, 0x400)

    def put(number: int, value: int) -> int:
        return tiny.call(Hypercall.set_debugreg, number, value)

    assert tiny.call(Hypercall.get_debugreg, 1) == 0x5000
    assert tiny.call(Hypercall.get_debugreg, 8) == -Errno.ENODEV
    assert put(0, 0xFFFF_8000_0000_0000) == -Errno.EPERM
    assert put(6, 1 << 32) == -Errno.EINVAL
    assert put(7, 1 << 13) == -Errno.EPERM
    assert put(7, 1 | 2 << 16) == -Errno.EPERM  # an I/O breakpoint without CR4.DE
    assert put(7, 1) == 0
    assert tiny.call(Hypercall.get_debugreg, 5) == 0x401
    assert put(9, 0) == -Errno.ENODEV


def test_single_step_over_an_emulated_instruction() -> None:
    tiny = Tiny("clts\nafter: nop" + HANDLERS)
    tiny.trap(DB, "h")
    tiny.cpu.flags = RFLAGS_IF | RFLAGS_TF
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("after")
    assert tiny.domain.debug_registers[6] & 1 << 14


def test_an_instruction_across_a_page_end_and_at_the_end_of_memory() -> None:
    for tail in (True, False):
        tiny = Tiny("nop" + HANDLERS)
        tiny.trap(GP, "h")
        code = assemble_bytes("mov rax, cr3\n jmp rdi")
        start = tiny.va(SPARE) + (-len(code) if tail else -2)
        tiny.write(start, code)
        if tail:
            assert tiny.update(SPARE, 0) == 0
        tiny.words[RDI] = tiny.at("done")
        tiny.words[RIP] = start
        tiny.run()
        assert tiny.words[RAX] == tiny.space.l4 << PAGE_SHIFT


def test_decoder_knows_prefixes_and_extensions() -> None:
    found = decode(assemble_bytes("mov cr8, r15"), 64)
    assert found is not None
    assert (found.opcode, found.reg, found.rm, found.length) == (0x122, 8, 15, 4)
    found = decode(b"\x66\xf3\x64\x6e" + bytes(11), 64)
    assert found is not None
    assert (found.opcode, found.repeated, found.operand16) == (0x6E, True, True)
    assert decode(b"", 64) is None
    assert decode(b"\x66" * 15, 64) is None
    assert decode(b"\x0f", 64) is None or decode(b"\x0f", 64).opcode == 0x0F  # type: ignore[union-attr]
    assert decode(b"\x0f\x22", 64) is None
    assert decode(b"\xe4", 64) is None


def test_rdtscp_gives_what_tsc_aux_has() -> None:
    tiny = ran(
        "mov ecx, 0xc0000103\n mov eax, 0x1234\n xor edx, edx\n wrmsr\n rdtscp\n mov rdi, rcx"
    )
    assert tiny.words[RDI] == 0x1234
    assert tiny.domain.tsc_aux == 0x1234
