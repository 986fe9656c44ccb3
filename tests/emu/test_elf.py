"""The ELF writer, read back by pyelftools and by binutils."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from emu.asm import Program, assemble
from emu.elf import Note, write_elf
from emu.errors import ImageError

SOURCE = """
.global _start
SIZE = 5
minus = -1
.Lhidden: nop
_start: mov eax, SIZE
call inner
inner: ret
.rodata
message: .asciz "hello"
.data
counter: .long 0x11223344
.bss
room: .zero 5000
end:
"""
NOTES = (Note("Xen", 6, b"linux\0"), Note("X", 77, b"12345678"), Note("Empty", 9, b""))
BASES = {64: 0xFFFF_FFFF_8000_0000, 32: 0xC000_0000}


def built(bits: int) -> tuple[Program, bytes, ELFFile]:
    program = assemble(SOURCE, base=BASES[bits], bits=bits)
    data = write_elf(program, notes=NOTES, bits=bits, virt_base=BASES[bits])
    return program, data, ELFFile(io.BytesIO(data))


@pytest.mark.parametrize("bits", [32, 64])
def test_header(bits: int) -> None:
    program, _data, elf = built(bits)
    assert elf.elfclass == bits
    assert elf["e_machine"] == {32: "EM_386", 64: "EM_X86_64"}[bits]
    assert elf["e_type"] == "ET_EXEC"
    assert elf["e_entry"] == program.entry == BASES[bits] + 1


@pytest.mark.parametrize("bits", [32, 64])
def test_segments(bits: int) -> None:
    program, _data, elf = built(bits)
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    assert [(s["p_flags"], s["p_filesz"], s["p_memsz"]) for s in loads] == [
        (5, 12, 12),
        (4, 6, 6),
        (6, 4, 0x1000 + 5000),
    ]
    for number, segment in enumerate(loads):
        assert segment["p_vaddr"] == BASES[bits] + number * 0x1000
        assert segment["p_paddr"] == number * 0x1000
        assert segment["p_offset"] % 4096 == segment["p_vaddr"] % 4096
        start = segment["p_vaddr"] - program.base
        assert segment.data() == program.image[start : start + segment["p_filesz"]]


@pytest.mark.parametrize("bits", [32, 64])
def test_loading_the_segments_gives_the_image(bits: int) -> None:
    program, _data, elf = built(bits)
    memory = bytearray(len(program.image) + program.bss_size)
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_LOAD":
            start = segment["p_vaddr"] - program.base
            memory[start : start + segment["p_filesz"]] = segment.data()
            assert start + segment["p_memsz"] <= len(memory)
    assert memory == program.image + bytes(program.bss_size)


@pytest.mark.parametrize("bits", [32, 64])
def test_notes(bits: int) -> None:
    _program, _data, elf = built(bits)
    [segment] = [s for s in elf.iter_segments() if s["p_type"] == "PT_NOTE"]
    found = [(n["n_name"], n["n_type"], n["n_descdata"]) for n in segment.iter_notes()]
    assert found == [("Xen", 6, b"linux\0"), ("X", 77, b"12345678"), ("Empty", 9, b"")]
    section = elf.get_section_by_name(".note")
    assert section["sh_offset"] == segment["p_offset"]
    assert section["sh_size"] == segment["p_filesz"]


def test_no_notes_no_segment() -> None:
    elf = ELFFile(io.BytesIO(write_elf(assemble("nop", base=0x1000))))
    assert [s["p_type"] for s in elf.iter_segments()] == ["PT_LOAD"]
    assert elf.get_section_by_name(".note") is None


@pytest.mark.parametrize("bits", [32, 64])
def test_symbols(bits: int) -> None:
    program, _data, elf = built(bits)
    table = elf.get_section_by_name(".symtab")
    symbols = {s.name: s for s in table.iter_symbols() if s.name}
    assert set(symbols) == {"_start", "SIZE", "minus", "inner", "message", "counter", "room", "end"}
    for name, symbol in symbols.items():
        assert symbol["st_value"] == program.symbols[name] % (1 << bits)
        if name in program.labels:
            section = elf.get_section(symbol["st_shndx"])
            assert section["sh_addr"] <= symbol["st_value"]
            assert symbol["st_value"] <= section["sh_addr"] + section["sh_size"]
        else:
            assert symbol["st_shndx"] == "SHN_ABS"
    binds = [s["st_info"]["bind"] for s in table.iter_symbols()]
    assert binds == ["STB_LOCAL"] * table["sh_info"] + ["STB_GLOBAL"]
    assert symbols["_start"]["st_info"]["bind"] == "STB_GLOBAL"


def test_program_at_an_odd_address_keeps_offsets_congruent() -> None:
    elf = ELFFile(io.BytesIO(write_elf(assemble("nop\n.bss\nx: .zero 1", base=0x7C05))))
    for segment in elf.iter_segments():
        assert segment["p_offset"] % 4096 == segment["p_vaddr"] % 4096
    assert elf.get_section_by_name(".text")["sh_addr"] == 0x7C05


def test_refusals() -> None:
    program = assemble("nop", base=0x1_0000_0000)
    with pytest.raises(ImageError, match="does not fit in a 32-bit"):
        write_elf(program, bits=32)
    with pytest.raises(ImageError, match="lies below virt_base"):
        write_elf(program, virt_base=0x2_0000_0000)
    with pytest.raises(ImageError, match="no 16-bit ELF"):
        write_elf(program, bits=16)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs binutils")
@pytest.mark.parametrize("bits", [32, 64])
def test_binutils_read_it_without_a_warning(bits: int, tmp_path: Path) -> None:
    _program, data, _elf = built(bits)
    path = tmp_path / "kernel"
    path.write_bytes(data)
    for command in (["readelf", "-aW"], ["nm"], ["objdump", "-dh"]):
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stderr == ""
        assert "arning" not in done.stdout
        if command[0] == "objdump":
            assert "<inner>:" in done.stdout
