"""The kernels' library assembled for 32 bits: what differs from 64 bits, through small kernels."""

import pytest

from guests.runner.machine import boot


def run(body: str, cmdline: str = "", width: int = 32) -> tuple[list[str], str]:
    """What a kernel with this ``main`` prints, and how it ends."""
    source = f'.include "lib/kernel.inc"\n.text\nmain:\n{body}\n    ret\n'
    made = boot(source, cmdline=cmdline, memory=4 << 20, width=width)
    assert made.audit() == []
    ended = made.domain(1).exit
    assert ended is not None
    return made.console(1).splitlines(), ended.reason


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("mov edi, -1\n call print_decimal", str(2**32 - 1)),
        ("mov edi, -1\n call print_signed", "-1"),
        ("mov edi, 0xfedcba98\n call print_hex", "0xfedcba98"),
        ("xor edi, edi\n call print_hex", "0x0"),
        ('param ebx, "n", 7\n print_number ebx', "31"),
        ('param [number], "n", 7\n print_number [number]\n.data\nnumber: .long 0\n.text', "31"),
    ],
)
def test_printing_and_parameters(call: str, text: str) -> None:
    lines, reason = run(f"{call}\n call print_newline", cmdline="x n=0x1F")
    assert lines == [text]
    assert reason == "poweroff"


@pytest.mark.parametrize(
    ("instructions", "vector"),
    [
        ("xor edi, edi\n mov eax, [edi]", 14),
        ("ud2", 6),
        ("xor ecx, ecx\n div ecx", 0),
        ("mov eax, 0x1234\n mov ds, eax", 13),
        ("mov eax, 0x7fffffff\n inc eax\n into", 4),
        ("int3", 3),
    ],
)
def test_a_fault_is_reported_and_a_crash(instructions: str, vector: int) -> None:
    lines, reason = run(f'print "unfinished"\n xor edx, edx\n {instructions}')
    assert lines[0] == "unfinished"
    assert lines[1].startswith(f"panic: vector {vector} error ")
    assert reason == "crash"


def contents(number: int) -> list[int]:
    """The first quads of a page, as random.inc describes them."""
    factor, step, most = 0x5851F42D4C957F2D, 0x14057B7EF767814F, 2**64
    quad, found = number * step % most, []
    for _ in range(6):
        found.append(quad)
        quad = (quad * factor + (step if number else 0)) % most
    return found


@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("number", [0, 1, 3, 1007])
def test_contents_are_the_same_at_both_widths(number: int, width: int) -> None:
    lines, _ = run(
        f"""
    call boot_page
    mov  xbx, xax
    mov  xdi, xax
    mov  esi, {number}
    call pattern_fill
    xor  ebp, ebp
1:  mov  edi, [xbx + xbp + 4]
    call print_hex
    print " "
    mov  edi, [xbx + xbp]
    call print_hex
    call print_newline
    add  ebp, 8
    cmp  ebp, 48
    jb   1b
    mov  xdi, xbx
    mov  esi, {number}
    mov  xdx, -1
    call pattern_check
    ktap_result xax, "as filled"
    inc  dword ptr [xbx + 512]
    mov  xcx, [xbx + 512]
    mov  xdi, xbx
    mov  esi, {number}
    mov  edx, 512
    call pattern_check
    ktap_result xax, "but for a word"
    mov  xdi, xbx
    mov  esi, {number}
    mov  xdx, -1
    call pattern_check
    dec  xax
    ktap_result xax, "one word differs"
    """,
        width=width,
    )
    assert lines[-3:] == ["ok 1 as filled", "ok 2 but for a word", "ok 3 one word differs"]
    assert lines[:-3] == [f"{quad >> 32:#x} {quad & 0xFFFFFFFF:#x}" for quad in contents(number)]


def test_frames_come_back_under_the_same_pfn() -> None:
    lines, _ = run(
        """
    mov  edi, 600                       ; two L1 tables
    call area_map
    mov  edi, AREA + 512 * PAGE
    call pfn_at
    push eax
    call mfn_at
    mov  ebx, eax
    call unmap_page
    mov  edi, ebx
    call frame_free
    ktap_result eax, "given back"
    call frame_alloc
    mov  ebx, eax
    pop  ecx
    sub  edx, ecx
    ktap_result edx, "the same PFN"
    mov  edi, AREA + 512 * PAGE
    mov  esi, ebx
    mov  edx, PTE_DATA
    call map_frame
    ktap_result eax, "mapped again"
    mov  dword ptr [AREA + 512 * PAGE], 1
    mov  eax, ebx
    mfn_to_pfn eax
    pfn_to_mfn eax
    sub  eax, ebx
    ktap_result eax, "M2P and P2M agree"
    """
    )
    assert [line.split()[0] for line in lines] == ["ok"] * 4, lines
