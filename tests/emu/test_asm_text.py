"""The assembler's text level: comments, conditions, macros, includes, and the line table."""

import re
from pathlib import Path

import pytest

from emu.asm import Program, assemble
from emu.disasm import disassemble
from emu.errors import AssemblyError

BASE = 0x10_0000


def program(text: str, **options: object) -> Program:
    return assemble(text, name="t.s", base=BASE, **options)  # type: ignore[arg-type]


def listing(code: bytes) -> list[str]:
    return [i.text for i in disassemble(code, BASE)]


def fails(text: str) -> str:
    with pytest.raises(AssemblyError) as caught:
        program(text)
    return str(caught.value)


def test_comments_and_quotes() -> None:
    p = program(
        'nop # a\nnop // b\nnop ; c\n; d\n/* e\nhlt */ nop /* f */\n.ascii "/*#;//", \'"\''[:-5]
    )
    assert p.image == b"\x90" * 4 + b"/*#;//"
    assert program(".byte ';', '#', '\\''").image == b";#'"


def test_line_numbers_survive_block_comments() -> None:
    assert fails("/* one\ntwo */ nop\nbad!").startswith("t.s:3: ")


def test_constants_can_be_set_again_and_used_before() -> None:
    p = program(".byte last\nx = 1\n.byte x\n.set x, x + 1\n.byte x\n.equ last, 9")
    assert p.image == bytes([9, 1, 2])
    assert p.symbols == {"x": 2, "last": 9}
    assert "already defined" in fails("x = 1\n.equiv x, 2")


def test_conditions() -> None:
    source = """
    .if N > 2
      .byte 1
      .if N == 4
        .byte 2
      .elseif N == 5
        .byte 3
      .else
        .byte 4
      .endif
    .else
      .byte 5
    .endif
    .ifdef N
      .byte 6
    .endif
    .ifndef M
      .byte 7
    .endif
    """
    wanted = {2: b"\5\6\7", 4: b"\1\2\6\7", 5: b"\1\3\6\7", 6: b"\1\4\6\7"}
    assert {n: program(source, defines={"N": n}).image for n in wanted} == wanted


def test_what_a_condition_skips_is_not_read() -> None:
    skipped = '.if nonsense(\n.else\n.endif\nfrob 1, 2\nx: y: .macro M\n.include "none"\nM:'
    p = program(f".if 0\n{skipped}\n.else\nx: .byte 7\n.endif")
    assert (p.image, p.symbols) == (b"\7", {"x": BASE})


def test_macros() -> None:
    p = program(
        r"""
        .macro SAVE first, second=rcx
          push \first
          push \second
        .endm
        .macro SPIN count:req
          mov ecx, \count
        again\@: dec ecx
          jnz again\@
        .endm
        .macro TABLE name, values:vararg
        \name\()_table: .byte \values
        .endm
        SAVE rax
        SAVE second=rdx, first=rbx
        SPIN [rsp + 8]
        here: SPIN 5
        TABLE odd, 1, 3, 5
        """
    )
    odd = p.symbols["odd_table"] - BASE
    assert listing(p.image[:odd]) == [
        *("push rax", "push rcx", "push rbx", "push rdx"),
        *("mov ecx, dword ptr [rsp + 8]", "dec ecx", f"jne {BASE + 8:#x}"),
        *("mov ecx, 5", "dec ecx", f"jne {BASE + 17:#x}"),
    ]
    assert p.symbols["here"] == BASE + 12
    assert p.image[odd:] == b"\1\3\5"
    assert "t.s:4: macro M needs its argument a" in fails(".macro M a:req\nnop\n.endm\nM")
    assert "t.s:3: macro M takes 0 arguments, not 1" in fails(".macro M\n.endm\nM 1")


def test_recursive_macro_ends_by_its_condition_or_by_an_error() -> None:
    source = ".macro DOWN n\n.byte \\n\n.if \\n > 0\nDOWN \\n-1\n.endif\n.endm\nDOWN 3"
    assert program(source).image == b"\3\2\1\0"
    assert fails(".macro A\nA\n.endm\nnop\nA").startswith(
        "t.s:5: macros or includes nest more than"
    )


def test_repetition() -> None:
    source = "n = 0\n.rept 3\n.byte n\nn = n + 1\n.endr\n.irp reg, rax, rbx\npush \\reg\n.endr"
    assert program(source).image == b"\0\1\2\x50\x53"
    assert fails(".rept 99999999\nnop\n.endr").startswith("t.s:1: the source expands to more than")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nop\n.if 1\nnop", "t.s:2: this condition has no .endif"),
        (".endif", "t.s:1: .endif without .if"),
        (".if 1\n.else\n.else\n.endif", "t.s:3: .else after .else"),
        (".if x\n.endif\nx:", "t.s:1: undefined symbol x (it must be known here)"),
        ("x:\n.if x\n.endif", "t.s:2: x must be a constant: x is an address"),
        ("nop\n.macro M\nnop", "t.s:2: .macro M has no .endm"),
        (".endm", "t.s:1: .endm without its beginning"),
        (".rept 3\nnop", "t.s:1: .rept has no .endr"),
        ('.error "too bad"', "t.s:1: too bad"),
        ('.include "none.inc"', 't.s:1: cannot find "none.inc"'),
        (f'.include "{"n" * 5000}"', 't.s:1: cannot find "nnn'),
        (".include none", "t.s:1: .include takes a file name in quotes"),
    ],
)
def test_wrong_text_level(source: str, message: str) -> None:
    assert fails(source).startswith(message)


def test_error_in_a_macro_names_the_call_and_the_macro() -> None:
    source = ".macro IN\nnop\nmov rax, [rbx*3]\n.endm\n.macro OUT\nIN\n.endm\nnop\nOUT"
    assert fails(source) == (
        "t.s:9: rbx can be scaled by 1, 2, 4 or 8, not 3 (in macro OUT, t.s:6, in macro IN, t.s:3)"
    )


def test_includes(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "main.s").write_text('.include "lib/a.inc"\nhlt\n')
    (tmp_path / "lib/a.inc").write_text('.include "b.inc"\n.include "c.inc"\nnop\n')
    (tmp_path / "lib/b.inc").write_text(".byte 1\n")
    (tmp_path / "far/c.inc").write_text('\n.incbin "blob", 1, 2\n')
    (tmp_path / "far/blob").write_bytes(b"wxyz")
    p = assemble(tmp_path / "main.s", base=BASE, include_dirs=[tmp_path / "far"])
    assert p.image == b"\1xy\x90\xf4"
    assert p.lines.lookup(BASE + 3) == (str(tmp_path / "lib/a.inc"), 3)
    assert p.lines.address_of("main.s", 2) == BASE + 4
    (tmp_path / "far/c.inc").write_text("nop\n\nfrob\n")
    with pytest.raises(AssemblyError, match=re.escape(f"{tmp_path}/far/c.inc:3: invalid mnemonic")):
        assemble(tmp_path / "main.s", base=BASE, include_dirs=[tmp_path / "far"])
    (tmp_path / "lib/b.inc").write_text('\n.include "../main.s"\n')
    with pytest.raises(AssemblyError, match=re.escape(f"{tmp_path}/lib/b.inc:2: include loop")):
        assemble(tmp_path / "main.s", base=BASE)


def test_unreadable_source(tmp_path: Path) -> None:
    with pytest.raises(AssemblyError, match=r"none\.s.*No such file"):
        assemble(tmp_path / "none.s", base=0)
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(AssemblyError, match="is not UTF-8"):
        assemble(tmp_path / "latin", base=0)


def test_lines_map_both_ways() -> None:
    p = program(".macro TWO\nnop\nhlt\n.endm\nnop\nTWO\n.byte 1, 2\nend: hlt")
    assert [(e.address - BASE, e.line) for e in p.lines.entries] == [(0, 5), (1, 6), (2, 6), (5, 8)]
    assert p.lines.address_of("t.s", 6) == BASE + 1
    assert p.lines.address_of("t.s", 7) is None
    assert p.lines.lookup(BASE + 3) is None
    assert p.lines.lookup(BASE - 1) is None
    assert p.lines.lookup(BASE + 6) is None
