"""Images of 32-bit kernels: what says that they have PAE page tables, and what is refused."""

import struct
from pathlib import Path

import pytest

from emu.errors import ImageError
from hypervisor.abi import ElfNote
from hypervisor.image import parse_image
from tests.needs import need

BASE = 0xC000_0000
CODE = bytes(4096)


def note(kind: ElfNote, value: str | int) -> bytes:
    raw = value.encode() + b"\0" if isinstance(value, str) else value.to_bytes(4, "little")
    return struct.pack("<III4s", 4, len(raw), kind, b"Xen") + raw + bytes(-len(raw) % 4)


def notes(pae: str | None = "yes", base: int = BASE) -> bytes:
    blob = note(ElfNote.LOADER, "generic") + note(ElfNote.XEN_VERSION, "xen-3.0")
    blob += note(ElfNote.VIRT_BASE, base) + note(ElfNote.ENTRY, base + 16)
    return blob + (note(ElfNote.PAE_MODE, pae) if pae is not None else b"")


def elf(notes_blob: bytes = b"", section: bytes = b"", paddr: int = 0, machine: int = 3) -> bytes:
    """An ELF32 file with one page of code, a note segment and a section ``__xen_guest``."""
    names = b"\0__xen_guest\0"
    code_at = 52 + 2 * 32 + 3 * 40
    names_at = code_at + len(CODE)
    section_at = names_at + len(names)
    notes_at = section_at + len(section)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01" + bytes(9), 2, machine, 1, BASE + 16, 52,
        52 + 64, 0, 52, 32, 2, 40, 3 if section else 0, 2 if section else 0,
    )  # fmt: skip
    size = len(CODE)
    program = struct.pack("<8I", 1, code_at, paddr, paddr, size, size, 7, 4096)
    program += struct.pack("<8I", 4, notes_at, 0, 0, len(notes_blob), 0, 4, 4)
    rows = bytes(40) + struct.pack("<10I", 1, 1, 0, 0, section_at, len(section), 0, 0, 1, 0)
    rows += struct.pack("<10I", 0, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    return header + program + rows + CODE + names + section + notes_blob


@pytest.mark.parametrize("mode", ["yes", "bimodal", "yes,bimodal"])
def test_notes_that_say_pae(mode: str) -> None:
    image = parse_image(elf(notes(mode)), "toy.elf")
    assert (image.width, image.virt_base, image.entry) == (32, BASE, BASE + 16)
    assert image.extended_cr3


@pytest.mark.parametrize("mode", [None, "no", "", "maybe", "yes[extended-cr3]", "YES"])
def test_notes_that_do_not(mode: str | None) -> None:
    with pytest.raises(ImageError, match="without PAE page tables") as caught:
        parse_image(elf(notes(mode)), "toy.elf")
    assert "toy.elf: a 32-bit kernel" in str(caught.value)


OLD = b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0xc0000000,PAE=%s,LOADER=generic\0"


@pytest.mark.parametrize(
    ("mode", "extended"), [(b"yes", False), (b"yes[extended-cr3]", True), (b"yes,x", False)]
)
def test_the_guest_section_says_pae(mode: bytes, extended: bool) -> None:
    image = parse_image(elf(section=OLD % mode, paddr=BASE), "toy.elf")
    assert (image.width, image.virt_base) == (32, BASE)
    assert image.extended_cr3 is extended


@pytest.mark.parametrize("mode", [b"no", b"", b"bimodal"])
def test_the_guest_section_does_not(mode: bytes) -> None:
    with pytest.raises(ImageError, match="without PAE page tables"):
        parse_image(elf(section=OLD % mode, paddr=BASE), "toy.elf")


def test_places_that_no_32_bit_guest_has() -> None:
    with pytest.raises(ImageError, match="outside a guest's address space"):
        parse_image(elf(notes(base=0xF580_0000)), "toy.elf")
    with pytest.raises(ImageError, match="outside a guest's address space"):
        parse_image(elf(notes(base=0xF57F_F000), paddr=0x1000), "toy.elf")


def test_other_32_bit_machines_are_named() -> None:
    with pytest.raises(ImageError, match="built for EM_ARM"):
        parse_image(elf(notes(), machine=40), "toy.elf")


def test_a_text_that_the_file_cuts_behind_its_nul_counts() -> None:
    """The last note of Debian's 32-bit GRUB says 12 bytes, and the file has 4 of them: ``yes``."""
    blob = notes(None)
    cut = struct.pack("<III4s", 4, 12, ElfNote.PAE_MODE, b"Xen") + b"yes\0"
    assert parse_image(elf(blob + cut), "toy.elf").extended_cr3
    with pytest.raises(ImageError, match="without PAE"):
        parse_image(elf(blob + cut[:-1]), "toy.elf")
    with pytest.raises(ImageError, match="without PAE"):
        parse_image(elf(blob + struct.pack("<III4s", 4, 8, ElfNote.ENTRY, b"Xen") + cut), "toy.elf")


def test_debians_32_bit_grub() -> None:
    path = Path(need("/usr/lib/grub-xen/grub-i386-xen.bin"))
    image = parse_image(path.read_bytes(), "grub")
    assert (image.width, image.virt_base, image.notes["PAE_MODE"]) == (32, 0, "yes")
