"""A guest's breakpoints: where they stop, what DR6 says, and that nobody else notices."""

import pytest

from emu.cpu import RAX, RBX, RCX, RDI, RIP
from emu.paging import RFLAGS_IF, RFLAGS_RF, RFLAGS_TF
from emu.trap import DB, PF
from emu.units import PAGE_SHIFT
from hypervisor.abi import Hypercall
from hypervisor.audit import audit
from hypervisor.domain import Exit
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.kernels import SPIN, Lab
from tests.hypervisor.tiny import DATA, NO_PAGE, SPARE, Tiny

CODE, WRITE, IO, ACCESS = range(4)
ONE, TWO, EIGHT, FOUR = range(4)
IRET = """
 mov rcx, [rsp]
 mov r11, [rsp + 8]
 add rsp, 16
 {change}
 push 0
 push rcx
 push r11
 push rax
 mov eax, 23
 syscall
"""
HANDLER = "jmp done\nh: inc rbx" + IRET.format(change="or qword ptr [rsp + 16], 0x10000")
"""Counts in RBX, and returns with RF set."""


def control(number: int, kind: int, length: int = ONE) -> int:
    return 1 << 2 * number | (kind | length << 2) << (16 + 4 * number)


def put(tiny: Tiny, number: int, value: int) -> int:
    return tiny.call(Hypercall.set_debugreg, number, value)


def started(text: str) -> Tiny:
    """A guest whose #DB handler counts in RBX."""
    tiny = Tiny(text + "\n" + HANDLER)
    tiny.trap(DB, "h")
    tiny.words[RBX] = 0
    return tiny


def data(tiny: Tiny, offset: int = 0) -> int:
    return tiny.va(DATA) + offset


def test_code_stops_before_the_instruction_and_goes_on() -> None:
    tiny = started("nop\nx: inc rax\n inc rax\n")
    assert put(tiny, 0, tiny.at("x")) == put(tiny, 7, control(0, CODE)) == 0
    tiny.words[RAX] = 0
    tiny.run()
    assert (tiny.words[RAX], tiny.words[RBX]) == (2, 1)
    assert tiny.domain.debug_registers[6] & 0xF == 1
    assert tiny.domain.tally["breakpoints"] == 1
    assert not tiny.crashed


def test_without_rf_it_happens_again_and_again() -> None:
    tiny = started("nop\nx: inc rdi\n jmp done\nh2: inc rbx" + IRET.format(change=""))
    tiny.trap(DB, "h2")
    put(tiny, 0, tiny.at("x"))
    put(tiny, 7, control(0, CODE))
    tiny.words[RDI] = 0
    tiny.run(200)
    assert tiny.words[RDI] == 0
    assert tiny.domain.tally["breakpoints"] > 5


def test_an_instruction_that_faults_keeps_rf() -> None:
    """The fault's handler returns to it, and the breakpoint does not happen a second time."""
    tiny = started(f"x: mov rax, [{NO_PAGE}]\n jmp done\nf: mov rdi, [rsp + 40]\n jmp done")
    tiny.trap(PF, "f")
    put(tiny, 0, tiny.at("x"))
    put(tiny, 7, control(0, CODE))
    tiny.run(60)
    assert tiny.words[RBX] == 1
    assert tiny.words[RDI] & RFLAGS_RF


def test_a_hit_counts_as_the_attempt_that_it_is() -> None:
    stopped = started("nop\nx: nop\n nop\n")
    put(stopped, 0, stopped.at("x"))
    put(stopped, 7, control(0, CODE))
    before = stopped.hv.machine.position
    stopped.run(1)
    assert stopped.hv.machine.position - before == 1
    assert stopped.words[RIP] == stopped.at("x")
    stopped.run(1)
    assert stopped.words[RIP] == stopped.at("h")
    assert stopped.hv.machine.position - before == 2


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 500])
def test_however_a_run_is_cut(cut: int) -> None:
    tiny = started("x: mov [rdi], rax\n add rax, [rdi]\n loop x\n")
    put(tiny, 0, tiny.at("x"))
    put(tiny, 1, data(tiny, 8))
    put(tiny, 7, control(0, CODE) | control(1, ACCESS, EIGHT))
    tiny.words[RDI], tiny.words[RCX], tiny.words[RAX] = data(tiny, 8), 5, 1
    for _ in range(0, 500, cut):
        tiny.run(cut)
    assert tiny.words[RBX] == 15
    assert tiny.words[RAX] == 32
    assert tiny.domain.debug_registers[6] & 0xF == 3


@pytest.mark.parametrize(
    ("text", "kind", "length", "hits"),
    [
        ("mov [rdi], rax", WRITE, EIGHT, 1),
        ("mov rax, [rdi]", WRITE, EIGHT, 0),
        ("mov rax, [rdi]", ACCESS, EIGHT, 1),
        ("mov [rdi + 8], rax\n mov [rdi - 8], rax", WRITE, EIGHT, 0),
        ("mov [rdi - 4], rax", WRITE, EIGHT, 1),
        ("mov [rdi + 7], al", WRITE, EIGHT, 1),
        ("mov [rdi + 4], eax", WRITE, FOUR, 0),
        ("mov [rdi + 2], ax\n mov [rdi + 1], al", WRITE, TWO, 1),
        ("lock xadd [rdi], rax", ACCESS, EIGHT, 1),
        ("push rax\n pop [rdi]", WRITE, EIGHT, 1),
        ("movups [rdi - 8], xmm0", WRITE, EIGHT, 1),
        ("cmp [rdi], rax\n test [rdi], al", ACCESS, ONE, 2),
    ],
)
def test_data(text: str, kind: int, length: int, hits: int) -> None:
    tiny = started(text)
    put(tiny, 2, data(tiny, 64))
    put(tiny, 7, control(2, kind, length))
    tiny.words[RDI] = data(tiny, 64)
    tiny.run()
    assert tiny.words[RBX] == hits
    assert tiny.domain.debug_registers[6] & 0xF == (4 if hits else 0)
    assert not tiny.crashed


def test_an_address_that_is_not_aligned_is() -> None:
    tiny = started("mov [rdi], al")
    put(tiny, 0, data(tiny, 65))
    put(tiny, 7, control(0, WRITE, FOUR))
    tiny.words[RDI] = data(tiny, 64)
    tiny.run()
    assert tiny.words[RBX] == 1


def test_data_stops_behind_the_instruction() -> None:
    tiny = started("mov [rdi], rax\ny: nop")
    tiny.trap(DB, "done")
    put(tiny, 0, data(tiny))
    put(tiny, 7, control(0, WRITE, EIGHT))
    tiny.words[RDI], tiny.words[RAX] = data(tiny), 77
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("y")
    assert not tiny.frame(7)[4] & RFLAGS_RF
    assert tiny.word(data(tiny)) == 77


def test_a_store_that_faults_is_no_hit() -> None:
    tiny = started("push [rdi]\n jmp done\nf: inc rcx\n jmp done")
    tiny.trap(PF, "f")
    tiny.words[RCX] = 0
    put(tiny, 0, data(tiny))
    put(tiny, 7, control(0, ACCESS, EIGHT))
    tiny.words[RDI] = data(tiny)
    tiny.words[4] = tiny.va(SPARE) + 8  # the stack: read-only
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RO) == 0
    tiny.domain.kernel_sp = tiny.stack
    tiny.run(20)
    assert tiny.words[RBX] == 0
    assert tiny.domain.debug_registers[6] & 0xF == 0


def test_a_page_that_moves_is_followed() -> None:
    tiny = started("mov [rdi], rax\n mov rdi, rsi\n mov [rdi], rax")
    put(tiny, 0, tiny.va(SPARE))
    put(tiny, 7, control(0, WRITE, EIGHT))
    assert tiny.update(SPARE, 0) == 0
    tiny.words[RDI] = data(tiny)
    tiny.words[6] = data(tiny)
    tiny.run(2)
    assert tiny.words[RBX] == 0
    assert tiny.update(SPARE, tiny.mfn(DATA) << PAGE_SHIFT | RW) == 0
    tiny.words[6] = tiny.va(SPARE)
    tiny.words[RIP] = tiny.va(0)
    tiny.words[RDI] = tiny.va(SPARE)
    tiny.run()
    assert tiny.words[RBX] >= 1
    assert audit(tiny.hv) == []


def test_a_single_step_and_a_breakpoint_are_one_trap() -> None:
    tiny = started("mov [rdi], rax\ny: nop")
    tiny.trap(DB, "done")
    put(tiny, 3, data(tiny))
    put(tiny, 7, control(3, WRITE, EIGHT))
    tiny.words[RDI] = data(tiny)
    tiny.cpu.flags = RFLAGS_IF | RFLAGS_TF
    tiny.run()
    assert tiny.frame(7)[2] == tiny.at("y")
    assert tiny.domain.debug_registers[6] & 0x400F == 0x4008
    assert tiny.domain.tally["breakpoints"] == 0


def test_ports() -> None:
    tiny = started("out 0x80, al\n in eax, dx\n out 0x90, al")
    tiny.domain.iopl = 1
    tiny.cpu.cr4 |= 8
    put(tiny, 0, 0x80)
    put(tiny, 1, 0x42)
    assert put(tiny, 7, control(0, IO) | control(1, IO, TWO)) == 0
    tiny.words[2] = 0x40  # DX: four ports
    tiny.run()
    assert tiny.words[RBX] == 2
    assert tiny.domain.debug_registers[6] & 0xF == 3


def test_ports_still_trap_while_breakpoints_are_armed() -> None:
    tiny = started("x: out 0x80, al\n mov [rdi], rax")
    put(tiny, 0, tiny.at("x"))
    put(tiny, 1, data(tiny))
    put(tiny, 7, control(0, CODE) | control(1, WRITE, EIGHT))
    tiny.trap(13, "done")
    tiny.words[RDI] = data(tiny)
    tiny.run()
    assert tiny.words[RBX] == 1
    assert tiny.frame()[2] == 0
    assert tiny.frame()[3] == tiny.at("x")


def test_by_instructions() -> None:
    tiny = started("mov rax, 1\n mov dr0, rdi\n mov dr7, rax\nx: nop\n xor eax, eax\n mov dr7, rax")
    tiny.words[RDI] = tiny.at("x")
    tiny.run()
    assert tiny.words[RBX] == 1
    assert not tiny.hv.machine.stops.has_guest


def test_only_the_domain_that_has_them_stops() -> None:
    lab = Lab(slice_=100)
    first, second = lab.boot(SPIN), lab.boot(SPIN)
    lab.hv.run(1000)
    first.debug_registers[0] = second.debug_registers[1] = lab.hv.machine.cpu.rip
    first.debug_registers[7] = control(0, CODE)
    lab.hv.run(10_000)
    assert first.exit is not None, "no handler: a double fault"
    assert second.exit is None
    assert not lab.hv.machine.stops.has_guest
    second.debug_registers[2] = first.debug_registers[0]
    second.debug_registers[7] = control(2, ACCESS)
    lab.hv.run(10_000)
    assert second.exit is None
    lab.hv.end(second, Exit("destroyed"))
    lab.hv.reap()
    third = lab.boot(SPIN)
    lab.hv.run(1000)
    assert third.exit is None
    assert not lab.hv.machine.stops.has_guest


def test_a_user_programs_are_found_too() -> None:
    tiny = Tiny("nop\nu: inc rax\n jmp u\n" + HANDLER, user_space=True)
    tiny.trap(DB, "h")
    put(tiny, 0, tiny.at("u"))
    put(tiny, 7, control(0, CODE) << 1 | control(0, CODE))
    tiny.words[RBX] = 0
    tiny.go_user("u")
    tiny.run(100)
    assert tiny.words[RBX] > 3


def test_a_hit_of_an_instruction_that_ends_its_domain_is_nobodys() -> None:
    """The load hits, the store faults, the frame of the fault cannot be written: no DR6 says it."""
    tiny = Tiny("mov rsp, NOWHERE\n push qword ptr [DATA]\nh: jmp done".replace("NOWHERE", "8"))
    tiny.trap(PF, "h")
    assert put(tiny, 0, data(tiny)) == put(tiny, 7, control(0, ACCESS, EIGHT)) == 0
    tiny.run()
    assert tiny.domain.exit is not None
    assert tiny.hv.breakpoints.take() == 0


def test_going_on_and_off_drops_translated_code_once() -> None:
    tiny = started("nop")
    watched: list[bool] = []
    stops = tiny.hv.machine.stops
    stops._watch = watched.append
    put(tiny, 0, data(tiny))
    for _ in range(10):
        assert put(tiny, 7, control(0, WRITE)) == put(tiny, 7, 0) == 0
        tiny.hv.breakpoints.begin(tiny.domain)
    assert watched == [True]
    for _ in range(100):
        tiny.hv.breakpoints.begin(tiny.domain)
    assert watched == [True, False]
    assert not stops.has_guest


def test_a_domain_that_is_gone_watches_nothing() -> None:
    """Nor where its breakpoint was at an address that is not mapped."""
    tiny = started("nop")
    assert put(tiny, 0, NO_PAGE) == put(tiny, 7, control(0, WRITE)) == 0
    hv = tiny.hv
    hv.end(tiny.domain, Exit("destroyed"))
    hv.reap()
    other = Handmade(hv, 1)
    hv.switch_to(other.domain)
    for _ in range(100):
        hv.breakpoints.begin(other.domain)
    assert hv.machine.coherence.on_flush is None
    assert not hv.machine.stops._guest_watches
