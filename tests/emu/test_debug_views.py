"""What a debugger shows of a CPU and its tables: expressions, memory, code, folded trees, QEMU."""

import io
import random
import subprocess

import pytest
from elftools.elf.elffile import ELFFile

from emu.asm import assemble
from emu.asm.expr import ExpressionError
from emu.debug.code import Names as CodeNames
from emu.debug.code import annotate, instructions, listing
from emu.debug.dwarf import read_lines
from emu.debug.examine import Format, FormatError, examine, parse_format, value_text
from emu.debug.expressions import Names, value_of
from emu.debug.qemu import info_mem, info_tlb
from emu.debug.tree import tree_lines
from emu.disasm import disassemble
from emu.elf import write_elf
from emu.memory import Memory
from emu.paging import PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PSE, PTE_RW, PTE_US
from emu.units import MA
from tests.needs import need

TABLE = PTE_P | PTE_RW | PTE_US | PTE_A


def names(memory: bytes = b"") -> Names:
    registers = {"rax": 5, "rsp": 0x1000, "rip": 0x40}
    symbols = {"main": 0x400, "count": 0x0}
    return Names(
        registers.get, symbols.get, lambda at, n: memory[at : at + n] if at < len(memory) else b""
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("0x10", 16),
        ("1fh", 31),
        ("1f + 0", None),
        ("$rsp - 8", 0xFF8),
        ("$pc", 0x40),
        (".", 0x40),
        ("main+0x20", 0x420),
        ("-1", (1 << 64) - 1),
        ("~0", (1 << 64) - 1),
        ("*0", 0x0807060504030201),
        ("*(u8 *)1", 2),
        ("*(u16*)(count + 2)", 0x0403),
        ("*(unsigned int *)4", 0x08070605),
        ("*(long *)0 & 0xff", 1),
        ("'a'", 97),
        ("1 << 4 | 1", 17),
        ("2 > 1", 1),
    ],
)
def test_expressions(text: str, value: int | None) -> None:
    known = names(bytes(range(1, 17)))
    if value is None:
        with pytest.raises(ExpressionError):
            value_of(text, known)
    else:
        assert value_of(text, known) == value


@pytest.mark.parametrize(
    "text",
    ["", "  ", "1 +", "nowhere", "$xyz", "*100", "*(u8 *)", "1 / 0", "(((", "1 << 64", "'", "\x00",
     "$", "*", "99999999999999999999999", "1 " * 300, "(" * 250],
)  # fmt: skip
def test_a_wrong_expression_is_refused_in_words(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"\w"):
        value_of(text, names())


def test_random_text_is_refused_or_has_a_value() -> None:
    rng = random.Random(6)
    for _ in range(3000):
        text = "".join(rng.choice("0123afx$()*+-/%<>|&^~ raxmain'\"\\.:") for _ in range(12))
        try:
            value = value_of(text, names(bytes(64)))
        except ExpressionError:
            value = 0
        assert 0 <= value < 1 << 64


def test_formats_keep_what_is_not_said() -> None:
    assert parse_format("", Format(9, "d", 4)) == Format(1, "d", 4)
    assert parse_format("4xg", Format()) == Format(4, "x", 8)
    assert parse_format("3i", Format()) == Format(3, "i", 8)
    assert parse_format("s", Format(1, "x", 8)).size == 1
    assert parse_format("2hd", Format()) == Format(2, "d", 2)
    for wrong in ("z", "0x", "-3x", "99999999x", "x4", "!"):
        with pytest.raises(FormatError, match="/"):
            parse_format(wrong, Format())


def test_values_in_every_format() -> None:
    def name(address: int) -> str:
        return "main" if address == 0xF0 else ""

    shown = {letter: value_text(0xF0, letter, 1, name) for letter in "xduotca"}
    assert shown == {
        "x": "0xf0",
        "d": "-16",
        "u": "240",
        "o": "0360",
        "t": "11110000",
        "c": "-16 '\\360'",
        "a": "0xf0 <main>",
    }
    assert value_text(65, "c", 1, name) == "65 'A'"


def test_memory_ends_in_a_line_that_says_where() -> None:
    data = bytes(range(20))

    def read(address: int, length: int) -> bytes:
        return data[address : address + length]

    text, end = examine(read, 0, Format(4, "x", 8), lambda at: "start" if at == 0 else "")
    assert text.splitlines() == [
        "0x0 <start>:\t0x0706050403020100\t0x0f0e0d0c0b0a0908",
        "cannot read memory at 0x14",
    ]
    assert end == 16
    data = b'ab"\n\x00rest\x00'
    text, end = examine(read, 0, Format(2, "s", 1), lambda at: "")
    assert text.splitlines() == ['0x0:\t"ab\\"\\n"', '0x5:\t"rest"']
    assert end == 10


# --- code and lines ------------------------------------------------------------------------


SOURCE = """
.text
main:
    call helper
    mov rax, [rip + word]
    ret
helper:
    nop
    ret
.data
word: .quad 7
"""


def program(tmp_path):  # type: ignore[no-untyped-def]
    path = tmp_path / "toy.asm"
    path.write_text(SOURCE)
    return assemble(path, base=0x10000)


def test_listings_name_targets_and_lines(tmp_path) -> None:  # type: ignore[no-untyped-def]
    built = program(tmp_path)
    image = built.image

    def read(address: int, length: int) -> bytes:
        offset = address - 0x10000
        return image[offset : offset + length] if offset >= 0 else b""

    by_address = {value: name for name, value in built.symbols.items()}
    known = CodeNames(lambda at: by_address.get(at, ""), built.lines)
    text, _ = listing(read, 0x10000, 3, 64, known, pc=0x10000)
    lines = text.splitlines()
    assert lines[0].startswith("=> 0x10000 <main>:")
    assert "<helper>" in lines[0]
    assert lines[0].endswith("toy.asm:4")
    assert "<word>" in lines[1]
    assert known.source(0x10000) == "toy.asm:4: call helper"
    assert listing(read, 0xFFF, 2, 64, known)[0] == "cannot read memory at 0xfff"
    assert instructions(read, 0x10000 + len(image), 1, 64) == []
    jump = disassemble(b"\xeb\xfe", 0x10000)[0]
    assert annotate(jump, known.symbol) == "jmp 0x10000 <main>"


@pytest.mark.parametrize("bits", [32, 64])
def test_line_information_survives_the_elf_file(tmp_path, bits) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "toy.asm"
    path.write_text(SOURCE if bits == 64 else SOURCE.replace("rax, [rip + word]", "eax, [word]"))
    built = assemble(path, base=0x10000, bits=bits)
    data = write_elf(built, bits=bits)
    assert read_lines(data).entries == built.lines.entries
    info = ELFFile(io.BytesIO(data)).get_dwarf_info()
    unit = next(info.iter_CUs()).get_top_DIE()
    assert unit.attributes["DW_AT_name"].value == b"toy.asm"
    assert unit.attributes["DW_AT_low_pc"].value == 0x10000


def test_gdb_finds_the_lines(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "toy.elf"
    path.write_bytes(write_elf(program(tmp_path)))
    gdb = need("gdb")
    said = subprocess.run(
        [gdb, "-nx", "-batch", "-ex", "info line helper", "-ex", "list main,+2", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'Line 8 of "' in said
    assert "call helper" in said


def test_damaged_line_information_is_no_information(tmp_path) -> None:  # type: ignore[no-untyped-def]
    good = write_elf(program(tmp_path))
    rng = random.Random(1)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 40)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        read_lines(bytes(bad))
    for cut in range(0, len(good), 97):
        read_lines(good[:cut])


# --- tables --------------------------------------------------------------------------------


def tables() -> Memory:
    """Four levels at frames 1..4: eight pages at 0x400000, a large one at 0x600000."""
    memory = Memory(1 << 20)
    memory.write_u64(MA(0x1000), 0x2000 | TABLE)
    memory.write_u64(MA(0x2000), 0x3000 | TABLE)
    memory.write_u64(MA(0x3010), 0x4000 | TABLE)
    memory.write_u64(MA(0x3018), 0x0 | PTE_P | PTE_PSE | PTE_NX)
    for i in range(8):
        bits = PTE_P | PTE_US | (PTE_RW if i >= 4 else 0) | (PTE_A if i < 2 else 0)
        memory.write_u64(MA(0x4000 + 8 * i), (0x10 + i) << 12 | bits | (PTE_D if i == 7 else 0))
    return memory


def test_trees_fold_equal_entries() -> None:
    lines = list(tree_lines(tables(), 0x1000))
    assert lines == [
        "LEVELS4, CR3 0x1000",
        "L4[000]  table 0x2  P RW US A",
        "  L3[000]  table 0x3  P RW US A",
        "    L2[002]  table 0x4  P RW US A",
        "      L1[000..003]  0x400000..0x403fff  r-x user  frames 0x10..0x13  P US a",
        "      L1[004..007]  0x404000..0x407fff  rwx user  frames 0x14..0x17  P RW US d",
        "    L2[003]  0x600000..0x7fffff  r-- supervisor  frame 0x0  P PSE NX",
    ]
    writable = list(tree_lines(tables(), 0x1000, select=lambda item: item.rights.write))
    assert len(writable) == 5
    assert "0x404000" in writable[-1]
    noted = list(tree_lines(tables(), 0x1000, note=lambda item: "odd" if item.mfn & 1 else ""))
    assert len(noted) == 13
    assert "behind 0x403fff" in list(tree_lines(tables(), 0x1000, limit=1))[-1]


def test_a_table_in_itself_ends() -> None:
    memory = tables()
    memory.write_u64(MA(0x1008), 0x1000 | TABLE)
    assert len(list(tree_lines(memory, 0x1000, limit=50))) < 200


def test_what_qemus_monitor_says() -> None:
    memory = tables()
    assert list(info_mem(memory, 0x1000)) == [
        "0000000000400000-0000000000404000 0000000000004000 ur-",
        "0000000000404000-0000000000408000 0000000000004000 urw",
        "0000000000600000-0000000000800000 0000000000200000 -r-",
    ]
    tlb = list(info_tlb(memory, 0x1000))
    assert tlb[0] == "0000000000400000: 0000000000010000 ----A--U-"
    assert tlb[7] == "0000000000407000: 0000000000017000 ---D---UW"
    assert tlb[8] == "0000000000600000: 0000000000000000 X-P------"
