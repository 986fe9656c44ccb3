"""An access through SS to an address that is not canonical is #SS(0); any other is #GP(0)."""

import pytest

from emu.cpu import RBX
from emu.trap import GP, SS
from tests.hypervisor.tiny import Tiny

BODY = """
    mov rbx, 9
    jmp done
general: mov rbx, 13
    jmp done
stack: mov rbx, 12
    jmp done
"""
BAD = "mov rax, 0x800000000000\n "
STACK_FAULTS = [
    "mov rbp, rax\n mov rcx, [rbp]",
    "mov rbp, rax\n mov [rbp + rcx * 8 + 16], cl",
    "mov rbp, rax\n lock inc dword ptr [rbp - 8 + 8]",
    "mov rcx, [rsp + rax]",
    "mov rcx, [rbp + rax * 2 - 0x20]",
    "mov rbp, rax\n movups xmm0, [rbp]",
    "mov rbp, rax\n push [rbp]",
    "mov rbp, rax\n call [rbp]",
    "mov rbp, rax\n leave",
]
OTHERS = [
    "mov rcx, [rax]",
    "mov r13, rax\n mov rcx, [r13]",
    "mov r12, rax\n mov rcx, [r12]",
    "mov rcx, [rax + rbp]",
    "mov rbp, rax\n mov rcx, fs:[rbp]",
    "push [rax]",
    "call [rax]",
    "jmp rax",
    "push rax\n ret",
    "hlt",
]
IMPLICIT = [
    "push rax", "push 5", "pushfq", "call done", "enter 16, 0", "push [rcx]",
    "pop rax", "popfq", "ret", "ret 8", "mov rcx, [rsp]", "mov [rsp - 8], rcx", "pop [rcx]",
]  # fmt: skip


def vector(text: str, user: bool = False) -> int:
    tiny = Tiny("u: xor ebp, ebp\n" + BAD + text + BODY, user_space=True)
    tiny.trap(GP, "general")
    tiny.trap(SS, "stack")
    if user:
        tiny.go_user("u")
    tiny.run(60)
    assert not tiny.crashed
    assert tiny.frame()[2] == 0 or user
    return tiny.words[RBX]


@pytest.mark.parametrize("text", STACK_FAULTS)
@pytest.mark.parametrize("user", [False, True])
def test_through_the_stack_segment(text: str, user: bool) -> None:
    assert vector("xor ecx, ecx\n " + text, user) == SS


@pytest.mark.parametrize("text", OTHERS)
def test_through_another_segment_or_for_another_reason(text: str) -> None:
    assert vector(text) == GP


@pytest.mark.parametrize("text", IMPLICIT)
def test_the_stack_itself(text: str) -> None:
    """In user mode: a kernel without a stack cannot be told."""
    bad = "lea rcx, [rip + done]\n mov rsp, 0x900000000000\n "
    assert vector(bad + text, user=True) == SS


def test_a_kernel_whose_stack_is_gone_is_crashed() -> None:
    tiny = Tiny("mov rsp, 0x900000000000\n push rax" + BODY)
    tiny.trap(SS, "stack")
    tiny.run(20)
    assert "double fault: the frame of #SS" in tiny.crashed
