"""Call gates of 32-bit guests, carried out by the hypervisor."""

import pytest

from emu.cpu import CS, RBX, RSP, SS
from emu.trap import GP, NP, PF, TS
from emu.units import PAGE_SHIFT
from hypervisor.abi import Errno
from tests.hypervisor.tiny import NO_PAGE, SPARE, USER_STACK
from tests.hypervisor.tiny32 import CS1, CS3, SS1, SS3, Tiny32, handler

CODE_1 = 0x00CF_BB00_0000_FFFF
GATE = 0x10


def gate(target: int, selector: int, dpl: int = 3, count: int = 0, present: bool = True) -> int:
    """A 32-bit call gate to ``selector``:``target``."""
    low = target & 0xFFFF | selector << 16
    high = target & 0xFFFF_0000 | present << 15 | dpl << 13 | 0xC << 8 | count
    return high << 32 | low


def call(code: str, selector: int = GATE, opcode: int = 0x9A) -> str:
    return f"{code}: .byte {opcode:#x}\n .long 0\n .word {selector:#x}\nafter{code}:"


def prepared(text: str, dpl: int = 3, count: int = 0, selector: int = CS1, **more: bool) -> Tiny32:
    """A guest whose GDT has code of ring 1 and, at ``GATE``, a gate to ``g``."""
    tiny = Tiny32(handler(text, "g: mov edi, 9\n jmp done\n"))
    for vector in (GP, NP, TS, PF):
        tiny.trap(vector, "h")
    assert tiny.gdt(CODE_1, gate(tiny.at("g"), selector, dpl, count, **more)) == 0
    return tiny


def test_how_a_gate_is_kept() -> None:
    """DPL 0, so that the CPU refuses it, and its own DPL in the target's RPL, as in Xen."""
    tiny = prepared("nop", count=3)
    found = tiny.hv.machine.memory.words[(tiny.mfn(SPARE) << 9) + 2]
    assert found == gate(tiny.at("g"), CS1 & ~3 | 3, 0, 3)
    for wrong in (gate(0, 0x8, count=3) | 0x20 << 32, gate(0, 0xE008), gate(0, CS3)):
        assert Tiny32("nop").gdt(CODE_1, wrong) == -Errno.EINVAL


def test_from_ring_3_with_parameters() -> None:
    tiny = prepared(f"nop\nu: push 0x11\n push 0x22\n {call('f')}", count=2)
    tiny.go_user("u")
    tiny.run()
    assert tiny.words[7] == 9
    assert (tiny.cpu.cpl, tiny.cpu.selector(CS), tiny.cpu.selector(SS)) == (1, CS1, SS1)
    assert tiny.domain.kernel_mode
    old = tiny.va(USER_STACK) + 4096 - 8
    assert tiny.words[RSP] == tiny.domain.kernel_sp - 24
    assert tiny.frame(6) == (tiny.at("afterf"), CS3, 0x22, 0x11, old, SS3)


def test_and_back() -> None:
    text = f"nop\nu: {call('f')} mov ebx, 5\n jmp done\nk: retf"
    tiny = Tiny32(handler(text))
    tiny.trap(GP, "h")
    assert tiny.gdt(CODE_1, gate(tiny.at("k"), CS1)) == 0
    tiny.go_user("u")
    tiny.run()
    assert tiny.words[RBX] == 5
    assert (tiny.cpu.cpl, tiny.cpu.selector(SS)) == (3, SS3)
    assert tiny.words[RSP] == tiny.va(USER_STACK) + 4096


def test_within_ring_1_and_by_a_jump() -> None:
    tiny = prepared(call("f"), dpl=1)
    tiny.run()
    assert tiny.words[7] == 9
    assert tiny.frame(2) == (tiny.at("afterf"), CS1)
    assert tiny.words[RSP] == tiny.stack - 8
    tiny = prepared(call("f", opcode=0xEA), dpl=1)
    tiny.run()
    assert tiny.words[7] == 9
    assert tiny.words[RSP] == tiny.stack


@pytest.mark.parametrize("operand", ["15", "5c2404", "1c25", "5df0"])
def test_by_an_operand_in_memory(operand: str) -> None:
    """CALL m16:32 by [SPARE'], [esp+4], [SPARE'] with SIB and [ebp-16]."""
    code = ", ".join(f"{byte:#x}" for byte in bytes.fromhex(operand))
    if operand in ("15", "1c25"):
        code = code.replace("0x15", "0x1d") + "\n .long DATA"
    text = f"mov ebp, DATA + 16\n mov esp, DATA - 4\n f: .byte 0xff, {code}\nafterf:"
    tiny = prepared(text, dpl=1)
    tiny.write(tiny.va(1), bytes(4) + GATE.to_bytes(2, "little"))
    tiny.update(0, tiny.entry(0))
    tiny.run(60)
    if tiny.crashed or tiny.handled:
        raise AssertionError(tiny.crashed or tiny.frame(4))
    assert tiny.words[7] == 9


@pytest.mark.parametrize(
    ("changes", "vector", "error"),
    [
        ({"dpl": 1}, GP, GATE),
        ({"present": False}, NP, GATE),
        ({"selector": 0x28}, GP, 0x28),
        ({"selector": 0x8}, None, 0),
    ],
)
def test_what_the_cpu_would_refuse(changes: dict[str, int], vector: int | None, error: int) -> None:
    tiny = prepared(f"nop\nu: {call('f')}", **changes)  # type: ignore[arg-type]
    tiny.go_user("u")
    tiny.run()
    if vector is None:
        assert tiny.words[7] == 9
        return
    assert tiny.handled == 1
    assert tiny.domain.last_exception is not None
    assert tiny.frame(3) == (error, tiny.at("f"), CS3)


def test_a_jump_does_not_change_the_ring() -> None:
    tiny = prepared(f"nop\nu: {call('f', opcode=0xEA)}")
    tiny.go_user("u")
    tiny.run()
    assert tiny.frame(3) == (CS1 & ~3, tiny.at("f"), CS3)


def test_the_selectors_rpl_counts() -> None:
    tiny = prepared(call("f", GATE | 3), dpl=1)
    tiny.run()
    assert tiny.frame(2) == (GATE, tiny.at("f"))


def test_stacks_that_cannot_be() -> None:
    for ss, sp, vector, error in (
        (SS3, 0x4000_2800, TS, SS3 & ~3),
        (SS1, NO_PAGE, PF, 2),
        (SS1, 0xF580_0010, PF, 2),
    ):
        tiny = prepared(f"nop\nu: {call('f')}")
        tiny.domain.kernel_ss, tiny.domain.kernel_sp = ss, sp  # type: ignore[assignment]
        tiny.go_user("u")
        before = tiny.domain.page_faults
        if vector == PF:
            tiny.run()
            assert "double fault" in tiny.crashed
            assert tiny.domain.page_faults == before + 1
        else:
            tiny.run()
            assert "no handler can be entered" in tiny.crashed or tiny.frame(1) == (error,)


def test_what_is_no_far_call_stays_a_fault() -> None:
    tiny = prepared(f"mov eax, {GATE}\nf: mov ds, eax")
    tiny.run()
    assert tiny.frame(2) == (GATE, tiny.at("f"))
    tiny = prepared(call("f", 0x7FF0))
    tiny.run()
    assert tiny.frame(2) == (0x7FF0, tiny.at("f"))
    tiny = prepared(f"push {GATE}\n push offset g\nf: retf")
    tiny.run()
    assert tiny.frame(2) == (GATE, tiny.at("f"))
    assert tiny.entry(SPARE) >> PAGE_SHIFT
