"""Line information of an assembled program as DWARF, so that debuggers show its source.

Three sections, as an assembler writes them for a source with ``-g``: one compile unit without
children that says where the code is, and a line program with a row for each instruction.

Source: DWARF Debugging Information Format, version 4: 6.2 (line numbers), 7.5 (entries). The target
is little-endian; addresses have the width of the ELF class.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import PurePath
from typing import Final

from emu.asm.program import LineEntry, Program

_VERSION: Final = 4
_PRODUCER: Final = "cowbird asm"
_LANGUAGE: Final = 0x8001
"""DW_LANG_Mips_Assembler, which every assembler uses."""
_TAG_COMPILE_UNIT: Final = 0x11
_AT_STMT_LIST, _AT_LOW_PC, _AT_HIGH_PC = 0x10, 0x11, 0x12
_AT_NAME, _AT_LANGUAGE, _AT_COMP_DIR, _AT_PRODUCER = 0x03, 0x13, 0x1B, 0x25
_FORM_ADDR, _FORM_DATA2, _FORM_DATA8, _FORM_STRING, _FORM_SEC_OFFSET = 0x01, 0x05, 0x07, 0x08, 0x17
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE = 1, 2, 3, 4
_END_SEQUENCE, _SET_ADDRESS = 1, 2
_OPERANDS: Final = (0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1)
"""Operands of the standard opcodes 1 to 12."""


def debug_sections(program: Program, bits: int) -> dict[str, bytes]:
    """Name and contents of each section; none if the program has no instructions."""
    entries = program.lines.entries
    if not entries:
        return {}
    files = list(dict.fromkeys(entry.file for entry in entries))
    low = entries[0].address
    high = entries[-1].address + entries[-1].size
    return {
        ".debug_abbrev": _abbreviations(),
        ".debug_info": _unit(files[0], low, high, bits // 8),
        ".debug_line": _line_program(entries, files, bits // 8),
    }


def _unsigned(value: int) -> bytes:
    """ULEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    """SLEB128."""
    out = bytearray()
    while not -0x40 <= value < 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def _text(value: str) -> bytes:
    return value.encode("utf-8", "replace").replace(b"\0", b"?") + b"\0"


def _abbreviations() -> bytes:
    attributes = (
        (_AT_PRODUCER, _FORM_STRING),
        (_AT_LANGUAGE, _FORM_DATA2),
        (_AT_NAME, _FORM_STRING),
        (_AT_COMP_DIR, _FORM_STRING),
        (_AT_STMT_LIST, _FORM_SEC_OFFSET),
        (_AT_LOW_PC, _FORM_ADDR),
        (_AT_HIGH_PC, _FORM_DATA8),
        (0, 0),
    )
    pairs = b"".join(_unsigned(name) + _unsigned(form) for name, form in attributes)
    return _unsigned(1) + _unsigned(_TAG_COMPILE_UNIT) + b"\0" + pairs + b"\0"


def _unit(file: str, low: int, high: int, word: int) -> bytes:
    body = _VERSION.to_bytes(2, "little") + bytes(4) + bytes([word])
    body += _unsigned(1)
    body += _text(_PRODUCER) + _LANGUAGE.to_bytes(2, "little")
    body += _text(PurePath(file).name) + _text(str(PurePath(file).parent))
    body += bytes(4) + low.to_bytes(word, "little") + (high - low).to_bytes(8, "little")
    return len(body).to_bytes(4, "little") + body


def _line_program(entries: Sequence[LineEntry], files: Sequence[str], word: int) -> bytes:
    directories = list(dict.fromkeys(str(PurePath(file).parent) for file in files))
    tables = b"".join(_text(directory) for directory in directories) + b"\0"
    for file in files:
        path = PurePath(file)
        tables += _text(path.name) + _unsigned(directories.index(str(path.parent)) + 1) + b"\0\0"
    tables += b"\0"
    # Minimum instruction length 1, one operation each, is_stmt; no special opcode is used.
    fixed = bytes([1, 1, 1, 1, 1, len(_OPERANDS) + 1, *_OPERANDS])
    header = fixed + tables
    numbers = {file: number for number, file in enumerate(files, 1)}
    rows = b"".join(_sequence(list(part), numbers, word) for part in _parts(entries))
    body = _VERSION.to_bytes(2, "little") + len(header).to_bytes(4, "little") + header + rows
    return len(body).to_bytes(4, "little") + body


def _parts(entries: Sequence[LineEntry]) -> list[list[LineEntry]]:
    """Runs of instructions without room between them."""
    gaps = 0
    numbered = []
    for i, entry in enumerate(entries):
        if i and entry.address != entries[i - 1].address + entries[i - 1].size:
            gaps += 1
        numbered.append((gaps, entry))
    return [[entry for _, entry in part] for _, part in groupby(numbered, key=lambda row: row[0])]


def _sequence(entries: Sequence[LineEntry], numbers: dict[str, int], word: int) -> bytes:
    first = entries[0].address
    out = bytearray(b"\0" + _unsigned(word + 1) + bytes([_SET_ADDRESS]))
    out += first.to_bytes(word, "little")
    address, file, line = int(first), 1, 1
    for entry in entries:
        if entry.address != address:
            out += bytes([_ADVANCE_PC]) + _unsigned(entry.address - address)
            address = entry.address
        if numbers[entry.file] != file:
            file = numbers[entry.file]
            out += bytes([_SET_FILE]) + _unsigned(file)
        if entry.line != line:
            out += bytes([_ADVANCE_LINE]) + _signed(entry.line - line)
            line = entry.line
        out.append(_COPY)
    out += bytes([_ADVANCE_PC]) + _unsigned(entries[-1].size)
    out += bytes([0, 1, _END_SEQUENCE])
    return bytes(out)
