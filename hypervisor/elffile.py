"""The file format of guest kernels: ELF headers, Xen notes, symbols.

What the contents mean to Xen is decided in ``image``, what they are packed in by ``packing``; here
is only what a hostile file could abuse. Every offset and size is checked against the file before
use; notes and symbols are bounded, so that neither time nor memory depends on what a header claims.
Anything wrong raises ``BadImageError`` (``image`` adds the file's name) and nothing else.

pyelftools provides the header layouts. Its objects for segments, sections, notes and symbols are
not used: they follow links, unpack sections and raise errors of many kinds on damaged files.

Source: System V ABI, chapters 4 and 5; xen/elfnote.h; xen/common/libelf for the padding of notes.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.structs import ELFStructs

from emu.units import VA
from hypervisor.abi import NOTE_NAME, ElfNote, Width
from hypervisor.packing import ELF_MAGIC, BadImageError

MAX_NOTE_BYTES: Final = 1 << 20
"""Most bytes of notes in one file; a Linux kernel has less than a thousand."""
MAX_SYMBOLS: Final = 1 << 20
MAX_SYMBOL_NAME: Final = 512
"""Symbols with longer names (bytes) are left out."""

_ABSOLUTE: Final = 0xFFF1

NoteValue: TypeAlias = int | str | bytes
"""A note's value: number, text, or the bytes of one whose meaning is not known here."""

TEXT_NOTES = frozenset(
    {
        ElfNote.INFO,
        ElfNote.XEN_VERSION,
        ElfNote.GUEST_OS,
        ElfNote.GUEST_VERSION,
        ElfNote.LOADER,
        ElfNote.PAE_MODE,
        ElfNote.FEATURES,
        ElfNote.BSD_SYMTAB,
    }
)


# --- ELF ---


class ElfFile:
    """An ELF file's headers, each checked to lie within the file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        if not data:
            raise BadImageError("empty file")
        if not data.startswith(ELF_MAGIC):
            raise BadImageError("neither an ELF file nor a packed one")
        if len(data) < 16 or data[4] not in (1, 2):
            raise BadImageError("damaged ELF header")
        if data[5] != 1:
            raise BadImageError("not a little-endian ELF file")
        self.width: Width = 64 if data[4] == 2 else 32
        self._stream = io.BytesIO(data)
        self._structs: Any = ELFStructs(little_endian=True, elfclass=self.width)
        self._structs.create_basic_structs()
        self.header = self._parse(self._structs.Elf_Ehdr, 0, "ELF header")
        machine = self.header["e_machine"]
        if machine != ("EM_X86_64" if self.width == 64 else "EM_386"):
            raise BadImageError(f"built for {machine}, not for x86")
        if self.header["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise BadImageError(f"not an executable but {self.header['e_type']}")
        self._structs.create_advanced_structs(self.header["e_type"], machine, None)
        self.segments = self._table("ph", self._structs.Elf_Phdr, "program headers")
        self.sections = self._table("sh", self._structs.Elf_Shdr, "section headers")

    def slice(self, offset: int, size: int, what: str) -> bytes:
        """``size`` bytes of the file; refuses if the file does not have them."""
        end, have = offset + size, len(self.data)
        if end > have:
            raise BadImageError(f"truncated: {what} ends at {end:#x}, the file at {have:#x}")
        return self.data[offset : offset + size]

    def section_data(self, section: Any, what: str) -> bytes:
        """The section's bytes as they are in the file."""
        return self.slice(section["sh_offset"], section["sh_size"], what)

    def section_named(self, name: bytes) -> Any | None:
        """The first section of that name, if there is one."""
        index = self.header["e_shstrndx"]
        if index >= len(self.sections):
            return None
        names = self.section_data(self.sections[index], "section names")
        for section in self.sections:
            start = section["sh_name"]
            if names[start : start + len(name) + 1] == name + b"\0":
                return section
        return None

    def _table(self, kind: str, entry: Any, what: str) -> list[Any]:
        offset = self.header[f"e_{kind}off"]
        count = self.header[f"e_{kind}num"]
        size = self.header[f"e_{kind}entsize"]
        if offset == 0 or count == 0:
            return []
        if size < entry.sizeof():
            raise BadImageError(f"{what} of {size} bytes each")
        self.slice(offset, count * size, f"table of {what}")
        return [self._parse(entry, offset + i * size, what) for i in range(count)]

    def _parse(self, entry: Any, offset: int, what: str) -> Any:
        try:
            return struct_parse(entry, self._stream, offset)
        except ELFError as error:
            raise BadImageError(f"damaged or truncated {what}") from error


# --- notes and symbols ---


def _iter_notes(blob: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, description) of the notes named Xen that begin from ``at`` on and before ``end``.

    Xen pads names and descriptions to 4 bytes whatever the segment's alignment says, which
    pyelftools does not do. As in Xen, a note may end behind its segment, and a text behind the
    file, if it has its NUL before: the last note of Debian's 32-bit GRUB does both. Any other that
    does not fit ends the list.
    """
    while at + 12 <= end:
        name_size, size, kind = struct.unpack_from("<III", blob, at)
        start = at + 12 + (name_size + 3 & ~3)
        if start + size > len(blob) and (kind not in TEXT_NOTES or 0 not in blob[start:]):
            return
        if blob[at + 12 : at + 12 + name_size].rstrip(b"\0") == NOTE_NAME:
            yield kind, blob[start : start + size]
        at = start + (size + 3 & ~3)


def text_of(raw: bytes) -> str:
    """The text before the first NUL; bytes that are not ASCII are escaped."""
    return raw.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def _note_value(kind: int, raw: bytes) -> tuple[str, NoteValue]:
    if kind not in ElfNote._value2member_map_:
        return f"{kind:#x}", raw
    note = ElfNote(kind)
    if note in TEXT_NOTES:
        return note.name, text_of(raw)
    if len(raw) in (1, 2, 4, 8):
        return note.name, int.from_bytes(raw, "little")
    if note in (ElfNote.L1_MFN_VALID, ElfNote.SUPPORTED_FEATURES):  # arrays
        return note.name, raw
    raise BadImageError(f"Xen note {note.name} has {len(raw)} bytes, which is no number")


def read_notes(elf: ElfFile) -> dict[str, NoteValue]:
    """The Xen notes by name. Of a note given twice the last counts. Raises BadImageError."""
    return dict(list_notes(elf))


def list_notes(elf: ElfFile) -> list[tuple[str, NoteValue]]:
    """All Xen notes in their order, from the segments or else from the sections.

    Raises BadImageError.
    """
    # Some linkers leave the offset 0; what lies there is the ELF header, not notes.
    places = [
        (header["p_offset"], header["p_filesz"])
        for header in elf.segments
        if header["p_type"] == "PT_NOTE" and header["p_offset"] != 0
    ]
    return _notes_at(elf, places) or _notes_at(
        elf,
        [(s["sh_offset"], s["sh_size"]) for s in elf.sections if s["sh_type"] == "SHT_NOTE"],
    )


def _notes_at(elf: ElfFile, places: list[tuple[int, int]]) -> list[tuple[str, NoteValue]]:
    total = sum(size for _, size in places)
    if total > MAX_NOTE_BYTES:
        raise BadImageError(f"{total:#x} bytes of notes")
    notes: list[tuple[str, NoteValue]] = []
    for offset, size in places:
        elf.slice(offset, size, "a note segment or section")
        found = _iter_notes(elf.data, offset, offset + size)
        notes.extend(_note_value(kind, raw) for kind, raw in found)
    return notes


def read_symbols(elf: ElfFile) -> tuple[dict[str, VA], frozenset[str]]:
    """Named, defined symbols, and which of them are constants and no addresses (SHN_ABS).

    Read here in bulk: pyelftools takes seconds for a Linux kernel.
    """
    table = next((s for s in elf.sections if s["sh_type"] == "SHT_SYMTAB"), None)
    if table is None or table["sh_link"] >= len(elf.sections):
        return {}, frozenset()
    names = elf.section_data(elf.sections[table["sh_link"]], "symbol names")
    raw = elf.section_data(table, "symbol table")
    layout = struct.Struct("<IBBHQQ" if elf.width == 64 else "<IIIBBH")
    count = len(raw) // layout.size
    if count > MAX_SYMBOLS:
        raise BadImageError(f"a symbol table of {count} entries")
    local: dict[str, VA] = {}
    exported: dict[str, VA] = {}
    constants: set[str] = set()
    for entry in layout.iter_unpack(raw[: count * layout.size]):
        if elf.width == 64:
            name_at, info, _, section, value, _ = entry
        else:
            name_at, value, _, info, _, section = entry
        if section == 0 or info & 15 in (3, 4):  # undefined; a section's or a file's name
            continue
        name_end = names.find(b"\0", name_at, name_at + MAX_SYMBOL_NAME + 1)
        if name_end <= name_at:
            continue
        name = names[name_at:name_end].decode("utf-8", "backslashreplace")
        (exported if info >> 4 else local).setdefault(name, VA(value))
        if section == _ABSOLUTE:
            constants.add(name)
    return local | exported, frozenset(constants)
