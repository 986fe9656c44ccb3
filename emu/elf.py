"""Writes an assembled program as a static ELF executable that gdb, readelf and a loader accept.

The file has one PT_LOAD per run of sections with equal rights (text R+X, rodata R, data and bss
R+W), one PT_NOTE for all notes, and a section table with symbols and line information (DWARF, see
``emu.asm.dwarf``). File offsets are congruent to addresses modulo the page size.

Source: System V ABI (generic, chapters 4 and 5) and its x86-64 and i386 supplements. What a note
means is the caller's business: this module only lays it out.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from emu.asm.dwarf import debug_sections
from emu.asm.program import Program, Section, SectionFlags
from emu.errors import ImageError
from emu.units import PAGE_SIZE

ET_EXEC = 2
EM_386 = 3
EM_X86_64 = 62
PT_LOAD, PT_NOTE = 1, 4
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_NOBITS = 1, 2, 3, 7, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_ABS = 0xFFF1
STB_LOCAL, STB_GLOBAL = 0, 1


@dataclass(frozen=True, slots=True)
class Note:
    """One ELF note: who defines it (``name``), which of theirs it is (``type``), and its data."""

    name: str
    type: int
    desc: bytes

    def encode(self) -> bytes:
        """The note as in a file: three words, then name and data, each padded to 4 bytes."""
        name = self.name.encode("ascii") + b"\0"
        head = struct.pack("<III", len(name), len(self.desc), self.type)
        return head + _pad4(name) + _pad4(self.desc)


@dataclass(frozen=True, slots=True)
class _Class:
    """What differs between ELF32 and ELF64."""

    ident: int
    machine: int
    header: struct.Struct
    segment_size: int
    section: struct.Struct
    symbol_size: int
    word: int

    def segment(
        self, type_: int, flags: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int
    ) -> bytes:
        align = PAGE_SIZE if type_ == PT_LOAD else 4
        if self.word == 8:
            return struct.pack(
                "<IIQQQQQQ", type_, flags, offset, vaddr, paddr, filesz, memsz, align
            )
        return struct.pack("<IIIIIIII", type_, offset, vaddr, paddr, filesz, memsz, flags, align)

    def symbol(self, name: int, info: int, index: int, value: int) -> bytes:
        if self.word == 8:
            return struct.pack("<IBBHQQ", name, info, 0, index, value & (1 << 64) - 1, 0)
        return struct.pack("<IIIBBH", name, value & (1 << 32) - 1, 0, info, 0, index)


_CLASSES = {
    32: _Class(
        1, EM_386, struct.Struct("<16sHHIIIIIHHHHHH"), 32, struct.Struct("<IIIIIIIIII"), 16, 4
    ),
    64: _Class(
        2, EM_X86_64, struct.Struct("<16sHHIQQQIHHHHHH"), 56, struct.Struct("<IIQQQQIIQQ"), 24, 8
    ),
}


class _Strings:
    """A string table; equal strings share a place."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._places = {"": 0}

    def add(self, text: str) -> int:
        """Offset of ``text`` in the table."""
        if text not in self._places:
            self._places[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._places[text]


@dataclass(slots=True)
class _SectionHeader:
    name: str
    type: int
    flags: int = 0
    address: int = 0
    offset: int = 0
    size: int = 0
    link: int = 0
    info: int = 0
    align: int = 1
    entry_size: int = 0


@dataclass(slots=True)
class _Segment:
    """Consecutive sections with equal rights."""

    flags: int
    sections: list[Section] = field(default_factory=list)


def write_elf(
    program: Program, *, notes: Sequence[Note] = (), bits: int = 64, virt_base: int = 0
) -> bytes:
    """The program as an ELF file; ``bits`` is 32 or 64.

    Each segment's physical address is its virtual one minus ``virt_base`` (bytes), which is how a
    loader that maps memory from ``virt_base`` on wants it. Raises ImageError if an address does
    not fit the class or lies below ``virt_base``.
    """
    kind = _CLASSES.get(bits)
    if kind is None:
        raise ImageError(f"there is no {bits}-bit ELF file: 32 or 64")
    end = max((section.end for section in program.sections), default=program.base)
    if end > 1 << bits:
        raise ImageError(f"address {end:#x} does not fit in a {bits}-bit ELF file")
    if program.base < virt_base:
        raise ImageError(f"base {program.base:#x} lies below virt_base {virt_base:#x}")

    segments = _segments(program)
    count = len(segments) + bool(notes)
    out = bytearray(kind.header.size + kind.segment_size * count)
    headers: list[_SectionHeader] = [_SectionHeader("", 0, align=0)]
    table = b""
    for segment in segments:
        first, last = segment.sections[0], segment.sections[-1]
        out += bytes((first.address - len(out)) % PAGE_SIZE)
        offset = len(out)
        for section in segment.sections:
            headers.append(_program_header(section, offset + section.address - first.address))
            if SectionFlags.NOBITS not in section.flags:
                out += bytes(offset + section.address - first.address - len(out))
                out += program.contents(section)
        table += kind.segment(
            PT_LOAD,
            segment.flags,
            offset,
            first.address,
            first.address - virt_base,
            len(out) - offset,
            last.end - first.address,
        )
    if notes:
        out += bytes(-len(out) % 4)
        data = b"".join(note.encode() for note in notes)
        headers.append(_SectionHeader(".note", SHT_NOTE, offset=len(out), size=len(data), align=4))
        table += kind.segment(PT_NOTE, PF_R, len(out), 0, 0, len(data), len(data))
        out += data
    out[kind.header.size : kind.header.size + len(table)] = table
    _add_symbols(program, kind, headers, out)
    for name, data in debug_sections(program, bits).items():
        headers.append(_SectionHeader(name, SHT_PROGBITS, offset=len(out), size=len(data)))
        out += data
    return _finish(program, kind, headers, count, out)


def _pad4(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _segments(program: Program) -> list[_Segment]:
    segments: list[_Segment] = []
    for section in program.sections:
        flags = PF_R
        flags |= PF_W if SectionFlags.WRITE in section.flags else 0
        flags |= PF_X if SectionFlags.EXECUTE in section.flags else 0
        if not segments or segments[-1].flags != flags:
            segments.append(_Segment(flags))
        segments[-1].sections.append(section)
    return segments


def _program_header(section: Section, offset: int) -> _SectionHeader:
    flags = SHF_ALLOC
    flags |= SHF_WRITE if SectionFlags.WRITE in section.flags else 0
    flags |= SHF_EXECINSTR if SectionFlags.EXECUTE in section.flags else 0
    kind = SHT_NOBITS if SectionFlags.NOBITS in section.flags else SHT_PROGBITS
    # The declared alignment must divide the address, and a first section may begin anywhere.
    align = min(section.address & -section.address or PAGE_SIZE, PAGE_SIZE)
    return _SectionHeader(
        section.name, kind, flags, section.address, offset, section.size, align=align
    )


def _add_symbols(
    program: Program, kind: _Class, headers: list[_SectionHeader], out: bytearray
) -> None:
    """Append the symbol table and its names; local symbols come first, as the ABI demands."""
    strings = _Strings()
    locals_: list[bytes] = [kind.symbol(0, 0, 0, 0)]
    globals_: list[bytes] = []
    for name, value in program.symbols.items():
        if name.startswith(".L"):
            continue
        index = _section_index(headers, value) if name in program.labels else SHN_ABS
        is_global = name in program.global_names
        info = (STB_GLOBAL if is_global else STB_LOCAL) << 4
        entry = kind.symbol(strings.add(name), info, index, value)
        (globals_ if is_global else locals_).append(entry)
    out += bytes(-len(out) % 8)
    data = b"".join(locals_ + globals_)
    link = len(headers) + 1
    headers.append(
        _SectionHeader(
            ".symtab",
            SHT_SYMTAB,
            offset=len(out),
            size=len(data),
            link=link,
            info=len(locals_),
            align=8,
            entry_size=kind.symbol_size,
        )
    )
    out += data
    headers.append(_SectionHeader(".strtab", SHT_STRTAB, offset=len(out), size=len(strings.data)))
    out += strings.data


def _section_index(headers: list[_SectionHeader], address: int) -> int:
    """Index of the section that an address is in; one at a section's end belongs to it too."""
    best = SHN_ABS
    for index, header in enumerate(headers):
        if header.flags & SHF_ALLOC and header.address <= address <= header.address + header.size:
            best = index
    return best


def _finish(
    program: Program, kind: _Class, headers: list[_SectionHeader], segments: int, out: bytearray
) -> bytes:
    """Append the section table and fill in the file header."""
    names = _Strings()
    headers.append(_SectionHeader(".shstrtab", SHT_STRTAB))
    places = [names.add(header.name) for header in headers]
    headers[-1].offset, headers[-1].size = len(out), len(names.data)
    out += names.data
    out += bytes(-len(out) % 8)
    table_offset = len(out)
    for header, place in zip(headers, places, strict=True):
        out += kind.section.pack(
            place,
            header.type,
            header.flags,
            header.address,
            header.offset,
            header.size,
            header.link,
            header.info,
            header.align,
            header.entry_size,
        )
    ident = b"\x7fELF" + bytes([kind.ident, 1, 1]) + bytes(9)
    out[: kind.header.size] = kind.header.pack(
        ident,
        ET_EXEC,
        kind.machine,
        1,
        program.entry,
        kind.header.size if segments else 0,
        table_offset,
        0,
        kind.header.size,
        kind.segment_size,
        segments,
        kind.section.size,
        len(headers),
        len(headers) - 1,
    )
    return bytes(out)
