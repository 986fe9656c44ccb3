"""Source lines from a program's file: the DWARF line programs of its compile units.

The file is untrusted and so is what it says about itself: damaged line information means that there
are no lines, never an error. Bounded by ``MAX_LINE_BYTES``: reading takes about a second per MiB.

Source: DWARF Debugging Information Format, versions 2 to 5, section 6.2; read by pyelftools.
"""

import io
import logging
import struct
from pathlib import PurePosixPath
from typing import Any, Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from emu.asm import LineEntry, LineTable
from emu.units import VA

MAX_LINE_BYTES: Final = 4 << 20
"""Largest ``.debug_line`` that is read; a Linux kernel's is larger."""
_DAMAGED: Final = (
    ELFError,
    DWARFError,
    ConstructError,
    struct.error,
    ArithmeticError,
    AttributeError,
    AssertionError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What pyelftools raises on damaged files."""


def read_lines(elf: bytes) -> LineTable:
    """The line table of an ELF file; empty if it has none that can be read."""
    if not elf:
        return LineTable()
    try:
        return LineTable(_entries(ELFFile(io.BytesIO(elf))))
    except _DAMAGED as error:
        logging.getLogger("cowbird").debug("line information: %s: %s", type(error).__name__, error)
        return LineTable()


def _entries(file: Any) -> list[LineEntry]:
    section = file.get_section_by_name(".debug_line")
    if section is None or section["sh_size"] > MAX_LINE_BYTES:
        return []
    dwarf = file.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
    entries: list[LineEntry] = []
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        directory = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        base = _text(directory.value) if directory is not None else ""
        names = _file_names(program, base)
        row = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if row is not None and state.address > row.address and row.line > 0:
                file_name = names.get(row.file, "?")
                size = state.address - row.address
                entries.append(LineEntry(VA(row.address), size, file_name, row.line))
            row = None if state.end_sequence else state
    return entries


def _file_names(program: Any, base: str) -> dict[int, str]:
    """Number in the line program -> path."""
    header = program.header
    version5 = header["version"] >= 5
    directories = [_text(item) for item in header["include_directory"]]
    first = 0 if version5 else 1
    if not version5:
        directories.insert(0, base)
    names = {}
    for number, item in enumerate(header["file_entry"], first):
        index = item["dir_index"]
        directory = directories[index] if index < len(directories) else ""
        path = PurePosixPath(base) / directory / _text(item["name"])
        names[number] = str(path)
    return names


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
