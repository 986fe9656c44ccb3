"""The assembler: encodings, operands, layout, symbols, data and their errors."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.asm import Program, SectionFlags, assemble, assemble_bytes
from emu.disasm import disassemble
from emu.errors import AssemblyError

BASE = 0x10_0000


def program(text: str, **options: object) -> Program:
    return assemble(text, name="t.s", base=BASE, **options)  # type: ignore[arg-type]


def listing(code: bytes, address: int = BASE, bits: int = 64) -> list[str]:
    return [i.text for i in disassemble(code, address, bits)]


def fails(text: str, **options: object) -> str:
    with pytest.raises(AssemblyError) as caught:
        program(text, **options)
    return str(caught.value)


# Encodings


@pytest.mark.parametrize(
    ("source", "decoded"),
    [
        ("mov rax, 10", "mov rax, 0xa"),
        ("mov rax, 0b101", "mov rax, 5"),
        ("mov rax, 0o17", "mov rax, 0xf"),
        ("mov rax, 1fh", "mov rax, 0x1f"),
        ("mov eax, 'a'", "mov eax, 0x61"),
        ("mov eax, 1 + 2 * 3 << 1", "mov eax, 0xe"),
        ("mov eax, -(7 % 4)", "mov eax, 0xfffffffd"),
        ("mov eax, (3 >= 2) + (1 == 2) + !0", "mov eax, 2"),
        ("mov rax, ~0xfff", "mov rax, 0xfffffffffffff000"),
        ("and rax, 0xfffffffffffff000", "and rax, 0xfffffffffffff000"),
        ("MOV RAX, QWORD PTR [RBX + 10]", "mov rax, qword ptr [rbx + 0xa]"),
        ("mov byte [rax], 20", "mov byte ptr [rax], 0x14"),
        ("mov rbx, [0x1000]", "mov rbx, qword ptr [0x1000]"),
        ("mov rbx, gs:[16]", "mov rbx, qword ptr gs:[0x10]"),
        ("mov rbx, [gs:16]", "mov rbx, qword ptr gs:[0x10]"),
        ("mov rbx, gs:16", "mov rbx, qword ptr gs:[0x10]"),
        ("mov rax, [r12 + rsp]", "mov rax, qword ptr [rsp + r12]"),
        ("mov rax, [8 + rcx*4 + rbx - 16]", "mov rax, qword ptr [rbx + rcx*4 - 8]"),
        ("lea rax, [rip + 8]", "lea rax, [rip + 8]"),
        ("mov eax, [ebx + 0xffffffff]", "mov eax, dword ptr [ebx - 1]"),
        ("movabs rax, [0x123456789a]", "movabs rax, qword ptr [0x123456789a]"),
        ("pop [rax]", "pop qword ptr [rax]"),
        ("movsx rax, dword ptr [rcx]", "movsxd rax, dword ptr [rcx]"),
        ("jmp fword ptr [rax]", "jmp ptr [rax]"),
        ("pushf", "pushfq"),
        ("sysretq", "sysretq"),
        ("sysretl", "sysret"),
        ("iretq", "iretq"),
        ("lretq", "retfq"),
        ("syscall", "syscall"),
        ("rep movsd", "rep movsd dword ptr [rdi], dword ptr [rsi]"),
        ("lock cmpxchg [rdi], rsi", "lock cmpxchg qword ptr [rdi], rsi"),
        ("push -1", "push -1"),
    ],
)
def test_instruction(source: str, decoded: str) -> None:
    assert listing(assemble_bytes(source, BASE)) == [decoded]


@pytest.mark.parametrize(
    ("source", "decoded"),
    [
        ("lgdt [0x1000]", "lgdt [0x1000]"),
        ("push ds", "push ds"),
        ("mov ebx, [0xc0000000]", "mov ebx, dword ptr [0xc0000000]"),
        ("iret", "iretd"),
        ("jmp 8:0x1234", "ljmp 8:0x1234"),
        ("jecxz 0x100000", "jecxz 0x100000"),
    ],
)
def test_instruction_in_32_bits(source: str, decoded: str) -> None:
    code = assemble_bytes(source, BASE, bits=32)
    assert listing(code, bits=32) == [decoded]
    assert code[0] != 0x66


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mov al, 300", "0x12c does not fit in 8 bits"),
        ("mov eax, 0x1ffffffff", "0x1ffffffff does not fit in 32 bits"),
        ("push 0x80000000", "0x80000000 does not fit in push's sign-extended 32 bits"),
        ("push 8, rax", "invalid operand: push 0x8, rax"),
        ("shl rax, 256", "0x100 does not fit in 8 bits"),
        ("mov rax, 010", "010: a leading zero is ambiguous, write 0o10 or 10"),
        ("mov rax, 09", "09: a leading zero is ambiguous, write 0o9 or 9"),
        ("mov rax, 12x", "12x is not a number"),
        ("mov rax, 0x10000000000000000", "0x10000000000000000 does not fit in 64 bits"),
        ("mov rax, 1 << 64", "shift by 64: the count must be 0 to 63"),
        ("mov rax, " + "(" * 5000 + "x", "the expression has more than 200 parts"),
        ("mov rax, x" + " + 1" * 5000, "the expression has more than 200 parts"),
        ("mov rax, 1 / 0", "division by zero"),
        ("mov rax, rbx + 1", "register rbx in an expression"),
        ("mov rax, [rbx + rcx + rdx]", "more than two registers in an address"),
        ("mov rax, [rbx - rcx]", "register rcx cannot be subtracted"),
        ("mov rax, [rbx * 3]", "rbx can be scaled by 1, 2, 4 or 8, not 3"),
        ("mov rax, [rsp * 2]", "this address cannot be encoded"),
        ("mov rax, [rip + rbx]", "rip goes with no other register and no scale"),
        ("mov rbx, [0x100000000]", "0x100000000 does not fit in a 32-bit displacement"),
        ("inc [rax]", "invalid operand: inc [rax]"),
        ("into", "not an instruction in 64-bit code: into"),
        ("rep", "not an instruction in 64-bit code: rep"),
        ("iret", "iret is ambiguous in 64-bit code: write iretq, iretd or iretw"),
        ("sysret", "sysret is ambiguous in 64-bit code"),
        ("nop dword ptr [rax]", "nop takes no operand here"),
        ("frobnicate rax", "invalid mnemonic: frobnicate rax"),
        ("mov rax,, rbx", "an operand of mov is missing"),
        ("lock jmp x\nx:", "jmp takes no prefix"),
        ("jmp 8:0", "a far branch to a number exists only in 32-bit code"),
        ("mov rax, foo", "undefined symbol foo"),
        ("jmp 1b", "there is no label 1: before this line"),
        ("jmp 1f", "undefined symbol 1"),
    ],
)
def test_wrong_instruction_is_an_error_with_its_line(source: str, message: str) -> None:
    text = fails("nop\n\n" + source)
    assert text.startswith("t.s:3: ")
    assert message in text


def test_one_wrong_instruction_among_many_is_found() -> None:
    lines = [f"mov rax, [rbx + {n}]" for n in range(40)]
    lines[23] = "mov rax, st(1)"
    assert fails("\n".join(lines)).startswith("t.s:24: invalid operand: mov rax, st(1)")


GNU_SAMPLES = """
mov rax, cr3; mov cr3, rax; mov rdi, 0xffffffff80000000; mov edi, 0x100000; xchg rax, rbx
add rdi, 0xfffffffffffffff0; cmp byte ptr [rdi], 0xff; test rax, 1; imul rax, rbx, 16; bts rax, 3
mov qword ptr gs:[0x10], 5; jmp qword ptr [rax*8 + 0x1000]; call [rax]; call rax; invlpg [rax]
lea rcx, [rcx*8]; mov rax, [rsp]; mov rax, [r13]; mov rax, [r12]; mov r8b, 5; movzx eax, al
sub rsp, -128; sub rsp, 128; push 0x1000; rep stosq; lock xadd [rdi], rsi; int 0x82; lidt [rax]
out dx, al; out 0xe9, al; in eax, dx; pushfq; popf; enter 16, 0; ret 8; bswap rax; cmpxchg16b [rdi]
fxsave [rax]; movaps xmm0, [rax]; rdfsbase rax; wrmsr; swapgs; clac; cpuid; movabs rax, 5; cqo
shld rax, rbx, 3; sar qword ptr [rax], cl; cmovz rax, rbx; setz al; retf; lretq; movsd; ltr ax
"""


@pytest.mark.skipif(shutil.which("as") is None, reason="needs the GNU assembler")
def test_encodings_agree_with_the_gnu_assembler(tmp_path: Path) -> None:
    samples = [text.strip() for text in re.split(r"[;\n]", GNU_SAMPLES) if text.strip()]
    source = ".intel_syntax noprefix\n" + "\n".join(samples) + "\n"
    binary, image = tmp_path / "o", tmp_path / "image"
    subprocess.run(["as", "--64", "-o", binary, "-"], input=source.encode(), check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", binary, image], check=True)
    assert listing(assemble_bytes("\n".join(samples))) == listing(image.read_bytes())
    assert assemble_bytes("\n".join(samples)) == image.read_bytes()


# Symbols in operands


def test_label_operands_reach_their_label() -> None:
    p = program(
        """
        _start: lea rdi, [rip + data]
        movabs rsi, offset data
        movabs rsi, data
        mov edx, offset data
        mov rbx, table[rax*8]
        mov rbx, data[rip]
        cmp qword ptr [rip + data], 0x12345678
        mov ecx, length
        mov ax, offset data & 0xffff
        .data
        data: .quad data, table - data
        table: .quad _start
        length = . - data
        """
    )
    data, text = p.symbols["data"], p.section(".text")
    assert text is not None
    code = disassemble(p.contents(text), BASE)
    assert code[0].operands == f"rdi, [rip + {data - code[0].address - code[0].size:#x}]"
    assert code[1].operands == code[2].operands == f"rsi, {data:#x}"
    assert code[1].size == 10
    assert code[3].operands == f"edx, {data:#x}"
    assert code[4].operands == f"rbx, qword ptr [rax*8 + {data + 16:#x}]"
    assert code[5].operands == f"rbx, qword ptr [rip + {data - code[5].address - 7:#x}]"
    # The immediate behind the displacement counts for rip.
    assert f"rip + {data - code[6].address - 11:#x}]" in code[6].operands
    assert code[7].text == "mov ecx, 0x18"
    assert code[8].text == "mov ax, 0x1000"
    words = memoryview(p.image[data - BASE :]).cast("Q")
    assert list(words) == [data, 16, p.symbols["_start"]]


def test_mov_of_a_high_label_takes_the_long_form() -> None:
    text = "mov rax, offset x\nx: nop"
    assert len(assemble_bytes(text, 0x1000)) == 8
    assert len(assemble_bytes(text, 0xFFFF_FFFF_8000_0000)) == 8
    code = assemble_bytes(text, 0x7F00_0000_0000)
    assert listing(code, 0) == ["movabs rax, 0x7f000000000a", "nop"]


def test_bare_label_is_refused() -> None:
    message = fails("mov rax, x\nx: nop")
    assert message.startswith("t.s:1: x alone is ambiguous: write 'offset x'")
    assert program("x: nop\ny: nop\nmov rax, y - x").image[-1:] == b"\0"


@pytest.mark.parametrize(("gap", "size"), [(127, 2), (128, 5)])
def test_forward_jump_is_short_while_it_reaches(gap: int, size: int) -> None:
    p = program(f"jmp there\n.zero {gap}\nthere: hlt")
    assert p.symbols["there"] == BASE + size + gap
    assert listing(p.image[:size]) == [f"jmp {p.symbols['there']:#x}"]


@pytest.mark.parametrize(("gap", "size"), [(126, 2), (127, 6)])
def test_backward_conditional_jump_is_short_while_it_reaches(gap: int, size: int) -> None:
    p = program(f"back: .zero {gap}\njnz back\nend:")
    assert p.symbols["end"] == BASE + gap + size
    assert listing(p.image[gap:], BASE + gap) == [f"jne {BASE:#x}"]


def test_branch_out_of_reach_is_an_error() -> None:
    assert "t.s:1: the target is out of reach" in fails("jmp short x\n.zero 200\nx:")
    assert "t.s:1: the target is out of reach" in fails("loop x\n.zero 200\nx:")
    with pytest.raises(AssemblyError, match="2 GiB"):
        assemble("call 0x1000", base=0x7F00_0000_0000)


def test_numeric_labels() -> None:
    p = program("1: nop\njmp 1b\njmp 1f\n1: nop\njmp 1b")
    assert listing(p.image) == [
        "nop",
        f"jmp {BASE:#x}",
        f"jmp {BASE + 5:#x}",
        "nop",
        f"jmp {BASE + 5:#x}",
    ]
    assert p.symbols == {}


# Layout


def test_sections_come_in_order_on_pages_of_their_own() -> None:
    p = program(
        """
        .bss
        b: .zero 5000
        .data
        d: .byte 1
        .text
        _start: nop
        .section .rodata
        r: .asciz "r"
        .text
        more: hlt
        """
    )
    assert [(s.name, s.address - BASE, s.size) for s in p.sections] == [
        (".text", 0, 2),
        (".rodata", 0x1000, 2),
        (".data", 0x2000, 1),
        (".bss", 0x3000, 5000),
    ]
    assert (p.bss_size, len(p.image)) == (5000, 0x3000)
    flags = [s.flags for s in p.sections]
    assert [SectionFlags.EXECUTE in f for f in flags] == [True, False, False, False]
    assert [SectionFlags.WRITE in f for f in flags] == [False, False, True, True]
    assert [SectionFlags.NOBITS in f for f in flags] == [False, False, False, True]
    assert p.entry == p.symbols["_start"] == BASE
    assert p.symbols["more"] == BASE + 1
    assert p.section(".init") is None


def test_entry_is_start_or_base() -> None:
    assert program("nop\n_start: nop").entry == BASE + 1
    assert program("nop\nstart: nop").entry == BASE
    assert program("_start = 5\nnop").entry == BASE


def test_padding_is_nops_in_text_and_zeros_in_data() -> None:
    p = program("hlt\n.align 32\nx: hlt\n.data\n.byte 1\n.p2align 3\ny: .byte 2\n.balign 4, 7")
    decoded = disassemble(p.image[:33], BASE)
    assert [i.mnemonic for i in decoded if i.mnemonic != "nop"] == ["hlt", "hlt"]
    assert p.symbols["x"] == BASE + 32
    assert p.image[0x1000:] == b"\1" + bytes(7) + b"\2\7\7\7"
    assert program("nop\n.align 16, , 4\nx:").symbols["x"] == BASE + 1
    assert program(".zero 13\n.align 16, , 4\nx:").symbols["x"] == BASE + 16


def test_data_directives() -> None:
    p = program(
        r"""
        .byte 10, 'a', -1, 0xff
        .word 0x1234
        .long -2
        .quad 0xfedcba9876543210
        .ascii "a;b", "#\"//\\" # comment
        .asciz "\x41\102\n" "c"
        .fill 2, 3, 0x010203
        .space 2, 0xcc
        .skip 1
        end:
        """
    )
    assert p.image == (
        b"\x0aa\xff\xff\x34\x12\xfe\xff\xff\xff\x10\x32\x54\x76\x98\xba\xdc\xfe"
        b'a;b#"//\\AB\nc\0\3\2\1\3\2\1\xcc\xcc\0'
    )
    assert p.symbols["end"] == BASE + len(p.image)


def test_sizes_may_depend_on_labels() -> None:
    p = program("a: .zero y - x\nb: .fill (y - x) / 2, 2, 0x0101\nc: nop\n.data\nx: .zero 5\ny:")
    assert (p.symbols["b"], p.symbols["c"]) == (BASE + 5, BASE + 9)
    assert p.image[:10] == bytes(5) + b"\1\1\1\1\x90"


def test_size_that_depends_on_itself_is_an_error() -> None:
    text = fails("nop\na: .zero 3 - (b - a)\nb:")
    assert text == "t.s:2: the size of this statement depends on itself and never settles"


def test_org_pads_and_refuses_to_go_back() -> None:
    p = program("nop\n.org 0x10\nx: nop\n.org x + 4\ny: nop")
    assert (p.symbols["x"], p.symbols["y"]) == (BASE + 0x10, BASE + 0x14)
    assert fails("nop\nnop\n.org 1") == "t.s:3: .org goes back by 1 bytes"


def test_comm_takes_room_in_bss() -> None:
    p = program("nop\n.lcomm one, 3\n.comm two, 8, 64\nhlt")
    assert p.image[:2] == b"\x90\xf4"
    assert (p.symbols["one"], p.symbols["two"]) == (BASE + 0x1000, BASE + 0x1040)
    assert p.bss_size == 0x48


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (".bss\n.byte 1", "t.s:2: .bss holds only zeros"),
        (".bss\nnop", "t.s:2: .bss holds only zeros"),
        (".byte 256", "t.s:1: 0x100 does not fit in 1 byte"),
        (".byte x\nx:", "t.s:1: 0x100001 does not fit in 1 byte"),
        (".align 3", "t.s:1: alignment 3 is not a power of two"),
        (".zero -1", "t.s:1: the count is negative: -1"),
        (".zero 1 << 40", "t.s:1: the program is over 256 MiB"),
        (".asciz abc", "t.s:1: abc is not a string in double quotes"),
        ('.ascii "\\q"', "t.s:1: unknown escape \\q"),
        (".quad", "t.s:1: .quad takes numbers"),
        (".section .init", "t.s:1: unknown section .init"),
        (".frob 1", "t.s:1: unknown directive .frob"),
        ("a: nop\na: nop", "t.s:2: a is already defined at t.s:1"),
        ("a = 1\na: nop", "t.s:2: a is already defined as a constant"),
        ("a: nop\na = 1", "t.s:2: a is already defined at t.s:1"),
        ("a = b\nb = a", "t.s:1: a is defined by itself"),
        ("nop\nrax: nop", "t.s:2: rax is a register and cannot be a symbol"),
        (".global nowhere", "t.s:1: undefined symbol nowhere"),
        (".quad 1 + nowhere", "t.s:1: undefined symbol nowhere"),
        ("x = nowhere", "t.s:1: undefined symbol nowhere"),
        ("nop\n/* no end", "t.s:2: this /* comment never ends"),
        ("@", "t.s:1: cannot read '@'"),
    ],
)
def test_wrong_directive(source: str, message: str) -> None:
    assert fails(source).startswith(message)


def test_arguments_are_checked() -> None:
    with pytest.raises(AssemblyError, match="there is no 16-bit code"):
        assemble("nop", base=0, bits=16)
    with pytest.raises(AssemblyError, match="is not a 32-bit address"):
        assemble("nop", base=1 << 32, bits=32)
    with pytest.raises(AssemblyError, match="'cx' cannot be defined"):
        assemble("nop", base=0, defines={"cx": 1})


def test_width_can_change_in_the_source() -> None:
    assert program(".code32\npush eax\n.code64\npush rax\n").image == b"\x50\x50"
    assert "push eax" in fails("push eax")


# Properties

_PIECES = st.one_of(
    st.tuples(st.just(".align"), st.sampled_from([1, 2, 8, 16, 64, 256])),
    st.tuples(st.just(".zero"), st.integers(0, 200)),
    st.tuples(st.just("jump"), st.integers(0, 30)),
    st.tuples(st.just("lea"), st.integers(0, 30)),
    st.tuples(st.just("section"), st.sampled_from([".text", ".rodata", ".data"])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_PIECES, min_size=1, max_size=30))
def test_labels_lie_where_the_bytes_show_them(pieces: list[tuple[str, object]]) -> None:
    lines: list[str] = []
    for number, (kind, value) in enumerate(pieces):
        # Each label stands before a magic number of its own, so that the image shows where it is.
        lines.append(f"L{number}: .quad {0xC0FFEE_0000_0000 + number}")
        target = f"L{int(value) % len(pieces)}" if isinstance(value, int) else ""
        match kind:
            case "section":
                lines.append(str(value))
            case "jump":
                lines.append(f"J{number}: jmp {target}")
            case "lea":
                lines.append(f"J{number}: lea rax, [rip + {target}]")
            case _:
                lines.append(f"{kind} {value}")

    p = program("\n".join(lines))
    for number in range(len(pieces)):
        magic = (0xC0FFEE_0000_0000 + number).to_bytes(8, "little")
        assert p.image.find(magic) == p.symbols[f"L{number}"] - BASE
        kind, value = pieces[number]
        if kind in ("jump", "lea") and isinstance(value, int):
            address = p.symbols[f"J{number}"]
            [found] = disassemble(p.image[address - BASE :], address, count=1)
            target = p.symbols[f"L{value % len(pieces)}"]
            assert p.lines.lookup(address) == ("t.s", 2 * number + 2)
            if kind == "jump":
                assert found.operands == f"{target:#x}"
                assert (found.size == 2) <= (-128 <= target - address - 2 < 128)
            else:
                distance = int.from_bytes(found.bytes[3:], "little", signed=True)
                assert address + 7 + distance == target


_TOKENS = st.sampled_from(
    [
        *("mov", "jmp", "lea", "push", "rep", "lock", "movsb", ".byte", ".fill", ".rept", ".endr"),
        *(".if", ".endif", ".macro", ".endm", ".set", ".align", "rax", "al", "rsp", "rip", "gs"),
        *("[", "]", "(", ")", "+", "-", "*", ":", ",", '"', "'", "\\", "\n", "\n", " ", "=", "."),
        *(
            "x",
            "x:",
            "1:",
            "1b",
            "1f",
            "0x10",
            "8",
            "-1",
            "qword",
            "ptr",
            "offset",
            "#",
            "/*",
            "*/",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_TOKENS, max_size=25))
def test_any_text_yields_a_program_or_an_assembly_error(tokens: list[str]) -> None:
    message = ""
    try:
        p = program(" ".join(tokens))
    except AssemblyError as error:
        message = str(error)
    if message:
        assert re.match(r"t\.s:\d+: .", message)
    else:
        assert len(p.image) + p.bss_size >= sum(section.size for section in p.sections)


# One source for both widths


BOTH = """
_start: mov  xax, [xip + word]
        lea  xdi, [xip+word + WSIZE]
        mov  xcx, [xsi + xax * WSIZE - 4]
        push xbp
        cmp  xword ptr [xip + word], 5
        XOR  XDX, XDX
        .if BITS == 32
        int  0x82
        .endif
        .data
word:   .xword 1, _start
"""


def test_names_of_either_width():
    wide = assemble(BOTH, base=0xFFFF_FFFF_8000_0000)
    assert [i.text for i in disassemble(wide.contents(wide.sections[0]), wide.base)] == [
        "mov rax, qword ptr [rip + 0xff9]",
        "lea rdi, [rip + 0xffa]",
        "mov rcx, qword ptr [rsi + rax*8 - 4]",
        "push rbp",
        "cmp qword ptr [rip + 0xfe4], 5",
        "xor rdx, rdx",
    ]
    assert wide.contents(wide.sections[1]) == (1).to_bytes(8, "little") + wide.base.to_bytes(
        8, "little"
    )
    narrow = assemble(BOTH, base=0xC000_0000, bits=32)
    assert [i.text for i in disassemble(narrow.contents(narrow.sections[0]), narrow.base, 32)] == [
        "mov eax, dword ptr [0xc0001000]",
        "lea edi, [0xc0001004]",
        "mov ecx, dword ptr [esi + eax*4 - 4]",
        "push ebp",
        "cmp dword ptr [0xc0001000], 5",
        "xor edx, edx",
        "int 0x82",
    ]
    assert narrow.contents(narrow.sections[1]) == bytes.fromhex("01000000000000c0")
    assert (wide.bits, narrow.bits) == (64, 32)
    assert set(wide.symbols) == {"_start", "word"}


def test_what_the_widths_define_can_be_given_but_names_of_registers_cannot():
    assert program(".byte BITS", defines={"BITS": 7}).image == b"\7"
    assert "register" in fails("xax: nop")
    assert "register" in fails("xip = 1")
    assert "no rip in 32-bit code" in fails("mov eax, [xip]", bits=32)
