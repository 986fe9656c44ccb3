"""The disassembler: no gap, no silent stop."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.disasm import BAD, disassemble


def test_fields_of_an_instruction() -> None:
    [found] = disassemble(bytes.fromhex("488b4308"), 0x1000)
    assert (found.address, found.size, found.bytes.hex()) == (0x1000, 4, "488b4308")
    assert (found.mnemonic, found.operands) == ("mov", "rax, qword ptr [rbx + 8]")
    assert found.text == "mov rax, qword ptr [rbx + 8]"
    assert not found.is_bad
    assert "0x1000" in str(found)


def test_text_without_operands_has_no_trailing_space() -> None:
    assert disassemble(b"\xc3", 0)[0].text == "ret"


def test_undecodable_bytes_come_one_by_one() -> None:
    found = disassemble(b"\x90\x06\x0e\xc3", 0x10)
    assert [(i.address, i.text) for i in found] == [
        (0x10, "nop"),
        (0x11, "(bad) 0x06"),
        (0x12, "(bad) 0x0e"),
        (0x13, "ret"),
    ]
    assert [i.is_bad for i in found] == [False, True, True, False]


def test_cut_off_instruction_is_bad() -> None:
    found = disassemble(b"\x90\x48\xb8\x01", 0)
    assert [i.mnemonic for i in found] == ["nop", BAD, BAD, BAD]


def test_count_limits_instructions_and_counts_bad_bytes() -> None:
    code = b"\x06\x90\x06" + b"\x90" * 100
    assert [i.size for i in disassemble(code, 0, count=4)] == [1, 1, 1, 1]
    assert disassemble(code, 0, count=0) == []
    assert len(disassemble(code, 0)) == 103


def test_width_decides() -> None:
    assert disassemble(b"\x48\x90", 0, 32)[0].text == "dec eax"
    assert disassemble(b"\x48\xc3", 0, 64)[0].size == 2
    assert disassemble(b"\xb8\x34\x12", 0, 16)[0].text == "mov ax, 0x1234"
    with pytest.raises(ValueError, match="no 8-bit code"):
        disassemble(b"\x90", 0, 8)


def test_addresses_wrap_at_the_top() -> None:
    found = disassemble(b"\x06\x06\x90", (1 << 64) - 1)
    assert [i.address for i in found] == [(1 << 64) - 1, 0, 1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([16, 32, 64]))
def test_output_covers_the_input(code: bytes, bits: int) -> None:
    found = disassemble(code, 0x4000, bits)
    assert b"".join(i.bytes for i in found) == code
    position = 0x4000
    for instruction in found:
        assert instruction.address == position
        position += instruction.size
