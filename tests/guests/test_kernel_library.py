"""The kernels' library, routine by routine, through small kernels that call it."""

import pytest

from emu.asm import assemble
from guests.library import DIRECTORY, VIRT_BASE, to_elf
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image


def run(body: str, cmdline: str = "", memory: int = 1 << 20) -> tuple[list[str], str]:
    """What a kernel with this ``main`` prints, and how it ends."""
    source = f'.include "lib/kernel.inc"\n.text\nmain:\n{body}\n    ret\n'
    program = assemble(source, base=VIRT_BASE, include_dirs=(DIRECTORY,))
    hv, console = Hypervisor(), Console()
    image = parse_image(to_elf(program), "test")
    domain = build_domain(
        hv, image, memory=memory, name="test", cmdline=cmdline, module=None, console=console
    )
    assert hv.run(20_000_000)
    assert domain.exit is not None
    return console.lines, domain.exit.reason


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("mov rdi, 0\n call print_decimal", "0"),
        ("mov rdi, -1\n call print_decimal", str(2**64 - 1)),
        ("mov rdi, -1\n call print_signed", "-1"),
        ("mov rdi, 1234567890123\n call print_signed", "1234567890123"),
        ("mov rdi, 0\n call print_hex", "0x0"),
        ("mov rdi, 0xfedcba9876543210\n call print_hex", "0xfedcba9876543210"),
        ("mov rdi, 0xa0\n call print_hex", "0xa0"),
        ('print "a, b; c # d"', "a, b; c # d"),
    ],
)
def test_printing(call, text):
    lines, reason = run(f"{call}\n call print_newline")
    assert lines == [text]
    assert reason == "poweroff"


def test_long_lines_are_not_cut():
    lines, _ = run('.rept 30\n print "0123456789"\n .endr\n call print_newline')
    assert lines == ["0123456789" * 30]


@pytest.mark.parametrize(
    ("cmdline", "key", "value"),
    [
        ("", "n", 7),
        ("n=1", "n", 1),
        ("nn=2 n=3", "n", 3),
        ("xn=2", "n", 7),
        ("  a  n=12  ", "n", 12),
        ("n=0x1F", "n", 31),
        ("n=5junk", "n", 5),
        ("n=", "n", 0),
        ("n", "n", 7),
        ("a=n=4", "n", 7),
        ("n=18446744073709551615", "n", 2**64 - 1),
        ("x" * 1000 + " n=4", "n", 4),
    ],
)
def test_numbers_on_the_command_line(cmdline, key, value):
    lines, _ = run(
        f'param rbx, "{key}", 7\n print_number rbx\n call print_newline', cmdline=cmdline
    )
    assert lines == [str(value)]


@pytest.mark.parametrize(
    ("cmdline", "there"),
    [
        ("", False),
        ("word", True),
        ("words", False),
        ("a word", True),
        ("word b", True),
        ("sword", False),
        ("word=1", False),
        ("wor", False),
    ],
)
def test_words_on_the_command_line(cmdline, there):
    lines, _ = run(
        'param_is "word"\n jnz 1f\n print_line "yes"\n ret\n1: print_line "no"', cmdline=cmdline
    )
    assert lines == ["yes" if there else "no"]


def test_verdicts():
    lines, reason = run(
        'ktap_plan 4\n ktap_result 0, "a"\n ktap_result 3, "b"\n ktap_skip "c", "because"\n'
        'fail "d", "no"\n print_line "unreached"'
    )
    assert lines == [
        "KTAP version 1",
        "1..4",
        "ok 1 a",
        "not ok 2 b # failures: 3",
        "ok 3 c # SKIP because",
        "not ok 4 d # no",
    ]
    assert reason == "poweroff"


@pytest.mark.parametrize(
    ("instructions", "vector"),
    [
        ("xor edi, edi\n mov rax, [rdi]", 14),
        ("xor edi, edi\n jmp rdi", 14),
        ("ud2", 6),
        ("xor ecx, ecx\n div ecx", 0),
        ("mov rax, 0x8000000000000000\n mov rax, [rax]", 13),
        ("int3", 3),
    ],
)
def test_a_fault_is_reported_and_a_crash(instructions, vector):
    lines, reason = run(f'print "unfinished"\n xor edx, edx\n {instructions}')
    assert lines[0] == "unfinished"
    assert lines[1].startswith(f"panic: vector {vector} error ")
    assert len(lines) == 2
    assert reason == "crash"


def test_checksum_of_a_page_with_a_change_is_that_of_the_changed_page():
    lines, _ = run(
        """
    mov  edi, PAGE * 2
    call boot_alloc
    mov  rbx, rax
    mov  rdi, rbx
    mov  esi, 99
    call pattern_fill
    mov  rdi, rbx
    mov  edx, 1024
    mov  ecx, 12345
    call checksum
    mov  rbp, rax
    mov  rdi, rbx
    mov  rdx, -1
    call checksum
    xor  r12d, r12d
    cmp  rax, rbp
    sete r12b
    mov  [rbx + 1024], rcx
    mov  rdi, rbx
    mov  rdx, -1
    call checksum
    sub  rax, rbp
    ktap_result rax, "equal"
    ktap_result r12, "different before"
    mov  rdi, rbx
    mov  esi, 99
    mov  rdx, -1
    call pattern_check
    ktap_result rax, "one quad differs"
    mov  rdi, rbx
    mov  esi, 99
    mov  edx, 1024
    mov  ecx, 12345
    call pattern_check
    ktap_result rax, "as expected"
    """
    )
    assert lines == [
        "ok 1 equal",
        "ok 2 different before",
        "not ok 3 one quad differs # failures: 1",
        "ok 4 as expected",
    ]


def test_frames_come_back_under_the_same_pfn():
    lines, _ = run(
        """
    mov  edi, 3
    call area_map
    mov  rdi, AREA
    call pfn_at
    mov  r12, rax
    call mfn_at
    mov  rbx, rax
    xor  esi, esi
    call map_page
    mov  rdi, rbx
    call frame_free
    ktap_result rax, "given back"
    call frame_alloc
    mov  rbx, rax
    sub  rdx, r12
    ktap_result rdx, "the same PFN"
    pfn_to_mfn r12
    sub  r12, rbx
    ktap_result r12, "P2M agrees"
    call frame_alloc
    mov  rcx, rax
    mfn_to_pfn rax
    sub  rax, rdx
    ktap_result rax, "M2P agrees"
    """
    )
    assert [line.split()[0] for line in lines] == ["ok"] * 4, lines


def test_running_out_of_pages_is_said():
    lines, reason = run("1: call boot_page\n jmp 1b")
    assert lines == ["not ok 1 memory # the domain is too small for what was asked"]
    assert reason == "poweroff"
    lines, reason = run("1: call frame_take\n jmp 1b")
    assert lines == ["not ok 1 memory # the domain is too small for what was asked"]
