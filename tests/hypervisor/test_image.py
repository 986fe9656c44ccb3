"""Reading kernel images: what a good one says, and that a bad one is one clear error.

The images are built here byte by byte, so that each test can bend just the field it is about.
"""

import gzip
import lzma
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import ImageError
from hypervisor import elffile, packing
from hypervisor.abi import ElfNote, XenFeat
from hypervisor.image import KernelImage, SegmentFlags, load_image, parse_image
from tests.needs import need

BASE = 0xFFFFFFFF80000000
PT_LOAD, PT_NOTE = 1, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 1, 2, 3, 7
EHDR, PHDR, SHDR, SYM = "<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ", "<IBBHQQ"


def note(kind, value, name=b"Xen\0"):
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = value.to_bytes(8, "little")

    def pad(raw):
        return raw + bytes(-len(raw) % 4)

    return struct.pack("<III", len(name), len(value), kind) + pad(name) + pad(value)


def notes(**changes):
    """A good kernel's notes; ``NAME=None`` leaves one out, ``NAME=value`` sets it."""
    values = {
        "GUEST_OS": "Toy",
        "LOADER": "generic",
        "XEN_VERSION": "xen-3.0",
        "VIRT_BASE": BASE,
        "ENTRY": BASE + 0x100010,
        "HYPERCALL_PAGE": BASE + 0x101000,
        "FEATURES": "writable_page_tables|!mmu_pt_update_preserve_ad|what_is_this",
    } | changes
    return b"".join(note(ElfNote[k], v) for k, v in values.items() if v is not None)


CODE = bytes(range(256)) * 20


def segment(kind=PT_LOAD, data=CODE, paddr=0x100000, vaddr=None, memsz=None, flags=7):
    return {
        "kind": kind,
        "data": data,
        "paddr": paddr,
        "vaddr": BASE + paddr if vaddr is None else vaddr,
        "memsz": len(data) if memsz is None else memsz,
        "flags": flags,
    }


def symbols(*entries):
    """(.symtab, .strtab) for (name, value, bind, type, section) entries."""
    table, names = bytes(24), b"\0"
    for name, value, bind, kind, section in entries:
        table += struct.pack(SYM, len(names), bind << 4 | kind, 0, section, value, 0)
        names += name + b"\0"
    return table, names


def elf(segments=None, sections=(), *, notes_blob=None, **header):
    """An ELF64 file. ``sections``: (name, type, data, link); ``header`` overrides e_* fields."""
    if segments is None:
        segments = [segment()]
    if notes_blob is not None:
        segments = [*segments, segment(PT_NOTE, notes_blob, 0, 0)]
    body, at = b"", 64 + 56 * len(segments)
    headers = b""
    for s in segments:
        offset = at + len(body)
        body += s["data"]
        size = len(s["data"])
        headers += struct.pack(
            PHDR, s["kind"], s["flags"], offset, s["vaddr"], s["paddr"], size, s["memsz"], 4
        )
    rows = b""
    if sections:
        all_names = b"\0" + b"".join(name + b"\0" for name, *_ in sections) + b".shstrtab\0"
        rows, name_at = bytes(64), 1
        for name, kind, data, link in [*sections, (b".shstrtab", SHT_STRTAB, all_names, 0)]:
            offset = at + len(body)
            body += data
            rows += struct.pack(SHDR, name_at, kind, 0, 0, offset, len(data), link, 0, 4, 24)
            name_at += len(name) + 1
    fields = {
        "e_ident": b"\x7fELF\x02\x01\x01" + bytes(9),
        "e_type": 2,
        "e_machine": 62,
        "e_version": 1,
        "e_entry": BASE + 0x100020,
        "e_phoff": 64,
        "e_shoff": at + len(body) if rows else 0,
        "e_flags": 0,
        "e_ehsize": 64,
        "e_phentsize": 56,
        "e_phnum": len(segments),
        "e_shentsize": 64,
        "e_shnum": len(rows) // 64,
        "e_shstrndx": max(len(rows) // 64 - 1, 0),
    } | header
    return struct.pack(EHDR, *fields.values()) + headers + body + rows


SYMBOLS = symbols(
    (b"start", BASE + 0x100010, 1, 2, 1),
    (b"kernel.c", 0, 0, 4, 0xFFF1),
    (b"helper", 0x111, 0, 2, 1),
    (b"helper", 0x222, 0, 2, 1),
    (b"both", 0x333, 0, 1, 1),
    (b"both", 0x444, 1, 1, 1),
    (b"imported", 0, 1, 0, 0),
    (b"x" * 600, 0x555, 1, 2, 1),
)
SECTIONS = [
    (b".text", SHT_PROGBITS, b"", 0),
    (b".symtab", SHT_SYMTAB, SYMBOLS[0], 3),
    (b".strtab", SHT_STRTAB, SYMBOLS[1], 0),
]
GOOD = elf(
    [segment(memsz=0x3000), segment(data=b"percpu", paddr=0x104000, vaddr=0, memsz=0x1000)],
    SECTIONS,
    notes_blob=note(1, b"GNU build id", b"GNU\0") + notes(),
)


ELF32 = struct.pack(
    "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01" + bytes(9), 2, 3, 1, *[0] * 4, 52, *[0] * 5
)


def refused(data):
    with pytest.raises(ImageError) as caught:
        parse_image(data, "toy.elf")
    text = str(caught.value)
    assert text.startswith("toy.elf: ")
    assert "\n" not in text
    return text


def test_a_good_image():
    image = parse_image(GOOD, "toy.elf")
    assert image.name == "toy.elf"
    assert image.width == 64
    assert image.entry == BASE + 0x100010
    assert image.virt_base == BASE
    assert image.paddr_offset == 0
    assert (image.virt_start, image.virt_end) == (BASE + 0x100000, BASE + 0x105000)
    assert image.hypercall_page == BASE + 0x101000
    assert image.init_p2m is None
    assert image.mod_start_pfn is False
    assert image.features == {
        XenFeat.writable_page_tables,
        XenFeat.mmu_pt_update_preserve_ad,
    }
    assert image.required_features == {XenFeat.mmu_pt_update_preserve_ad}
    assert image.notes["GUEST_OS"] == "Toy"
    assert image.notes["ENTRY"] == BASE + 0x100010


def test_segments_are_placed_by_their_physical_address():
    first, percpu = parse_image(GOOD, "toy.elf").segments
    assert (first.va, first.paddr, first.filesz, first.memsz) == (
        BASE + 0x100000,
        0x100000,
        len(CODE),
        0x3000,
    )
    assert first.data == CODE
    assert first.flags == SegmentFlags.R | SegmentFlags.W | SegmentFlags.X
    assert (percpu.va, percpu.vaddr, percpu.end) == (BASE + 0x104000, 0, BASE + 0x105000)


def test_symbols():
    assert parse_image(GOOD, "toy.elf").symbols == {
        "start": BASE + 0x100010,
        "helper": 0x111,  # the first of two local ones
        "both": 0x444,  # the global one
    }
    assert parse_image(elf(notes_blob=notes()), "stripped").symbols == {}


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_packed_images_are_the_same(pack):
    assert parse_image(pack(GOOD), "toy.elf") == parse_image(GOOD, "toy.elf")


def test_entry_defaults_to_the_elf_header():
    assert parse_image(elf(notes_blob=notes(ENTRY=None)), "toy.elf").entry == BASE + 0x100020


def test_virt_base_defaults_to_zero():
    blob = notes(VIRT_BASE=None, ENTRY=0x100000, HYPERCALL_PAGE=None)
    image = parse_image(elf(notes_blob=blob), "toy.elf")
    assert (image.virt_base, image.virt_start, image.hypercall_page) == (0, 0x100000, None)


def test_paddr_offset_is_taken_from_physical_addresses():
    blob = notes(PADDR_OFFSET=0x100000, ENTRY=BASE, HYPERCALL_PAGE=BASE + 0x1000)
    image = parse_image(elf(notes_blob=blob), "toy.elf")
    assert (image.virt_start, image.paddr_offset) == (BASE, 0x100000)


def test_numbers_may_be_of_any_natural_size():
    small = note(ElfNote.MOD_START_PFN, b"\1") + note(ElfNote.SUPPORTED_FEATURES, b"\2\0\0\0")
    image = parse_image(elf(notes_blob=notes(FEATURES=None) + small), "toy.elf")
    assert image.mod_start_pfn is True
    assert image.features == {XenFeat.writable_descriptor_tables}
    assert image.required_features == frozenset()


def test_unknown_and_array_notes_are_kept():
    blob = notes(L1_MFN_VALID=bytes(16)) + note(0x77, b"abc")
    image = parse_image(elf(notes_blob=blob), "toy.elf")
    assert image.notes["L1_MFN_VALID"] == bytes(16)
    assert image.notes["0x77"] == b"abc"


def test_a_note_that_does_not_fit_ends_the_list():
    cut = note(ElfNote.GUEST_VERSION, b"1.2.3.4.5.6.7.8")[:-8]
    image = parse_image(elf(notes_blob=notes() + cut), "toy.elf")
    assert "GUEST_VERSION" not in image.notes


def test_init_p2m():
    blob = notes(INIT_P2M=0x8000000000)
    assert parse_image(elf(notes_blob=blob), "toy.elf").init_p2m == 0x8000000000


def test_note_sections_serve_when_no_segment_has_notes():
    sections = [(b".note.Xen", SHT_NOTE, notes(), 0)]
    assert parse_image(elf(sections=sections), "toy.elf").virt_base == BASE
    both = elf(sections=[(b".n", SHT_NOTE, notes(GUEST_OS="section"), 0)], notes_blob=notes())
    assert parse_image(both, "toy.elf").notes["GUEST_OS"] == "Toy"


OLD = (
    b"GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,"
    b"HYPERCALL_PAGE=0x101,FEATURES=!writable_page_tables|pae_pgdir_above_4gb,OTHER=1,PAE=yes\0"
)


def old_style(text, paddr=BASE + 0x100000):
    return elf([segment(paddr=paddr, vaddr=paddr)], [(b"__xen_guest", SHT_PROGBITS, text, 0)])


def test_the_guest_section_serves_when_there_are_no_notes():
    image = parse_image(old_style(OLD), "toy.elf")
    assert image.virt_start == BASE + 0x100000
    assert image.paddr_offset == BASE  # unlike with notes
    assert image.hypercall_page == BASE + 0x101000
    assert image.entry == BASE + 0x100020
    assert image.required_features == {XenFeat.writable_page_tables}
    assert image.notes["GUEST_VERSION"] == "2.6"
    explicit = OLD.replace(b"OTHER=1", b"ELF_PADDR_OFFSET=0,VIRT_ENTRY=0xffffffff80100044")
    image = parse_image(old_style(explicit, paddr=0x100000), "toy.elf")
    assert (image.paddr_offset, image.entry) == (0, BASE + 0x100044)


@pytest.mark.parametrize("value", [b"", b"seven", b"-1", b"0x10000000000000000", b"9" * 100])
def test_the_guest_sections_numbers_are_checked(value):
    text = OLD.replace(b"HYPERCALL_PAGE=0x101", b"HYPERCALL_PAGE=" + value)
    assert "number" in refused(old_style(text))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"#!/bin/sh\n", "neither an ELF file nor"),
        (b"\x7fELF", "damaged ELF header"),
        (GOOD[:40], "truncated ELF header"),
        (GOOD[:100], "truncated"),
        (GOOD[:-1], "truncated"),
        (ELF32, "no Xen ELF notes and no __xen_guest"),
        (elf(e_ident=b"\x7fELF\x01\x01\x01" + bytes(9)), "built for EM_X86_64"),
        (elf(e_ident=b"\x7fELF\x02\x02\x01" + bytes(9)), "little-endian"),
        (elf(e_machine=183), "EM_AARCH64"),
        (elf(e_type=1), "ET_REL"),
        (elf(e_phoff=2**64 - 1), "truncated"),
        (elf(e_phentsize=8), "program headers of 8 bytes"),
        (elf(), "no Xen ELF notes and no __xen_guest section"),
        (elf(notes_blob=note(18, 0x100000)), "PVH entry only"),
        (elf(notes_blob=notes(LOADER=None)), "GUEST_OS='Toy'"),
        (elf(notes_blob=notes(XEN_VERSION="xen-2.0")), "xen-2.0"),
        (elf(notes_blob=notes(FEATURES="!time_travel")), "'time_travel'"),
        (elf(notes_blob=notes(VIRT_BASE=None, PADDR_OFFSET=0)), "without VIRT_BASE"),
        (elf(notes_blob=notes(ENTRY=BASE)), "entry 0xffffffff80000000 is outside the image"),
        (elf(notes_blob=notes(ENTRY=BASE + 0x100000 + len(CODE))), "is outside the image"),
        (elf(notes_blob=notes(ENTRY=b"abc")), "ENTRY has 3 bytes"),
        (elf(notes_blob=notes(HYPERCALL_PAGE=BASE + 0x100800)), "HYPERCALL_PAGE"),
        (elf(notes_blob=notes(HYPERCALL_PAGE=BASE + 0x200000)), "HYPERCALL_PAGE"),
        (elf(notes_blob=notes(INIT_P2M=BASE + 0x100000)), "INIT_P2M"),
        (elf(notes_blob=notes(INIT_P2M=0xFFFF800000000000)), "INIT_P2M"),
        (elf(notes_blob=notes(VIRT_BASE=0xFFFF800000000000)), "address space"),
        (elf(notes_blob=notes(VIRT_BASE=1 << 60)), "address space"),
        (elf(notes_blob=notes(PADDR_OFFSET=0x200000)), "below VIRT_BASE"),
        (elf([], notes_blob=notes()), "nothing to load"),
        (elf([segment(memsz=16)], notes_blob=notes()), "a segment of 0x10 bytes has 0x1400"),
        (elf([segment(memsz=2**63)], notes_blob=notes()), "address space"),
        (elf(notes_blob=bytes(2 << 20)), "0x200000 bytes of notes"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
        (bytes(0x202) + b"HdrS" + bytes(600), "bzImage"),
        (gzip.compress(GOOD)[:-20], "truncated gzip"),
        (b"\x1f\x8b" + bytes(50), "damaged gzip"),
        (lzma.compress(GOOD)[:-40], "truncated xz"),
        (b"\xfd7zXZ\0" + bytes(50), "damaged xz"),
        (gzip.compress(gzip.compress(GOOD)), "neither an ELF file nor"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_images_say_what_is_wrong(data, says):
    assert says in refused(data)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_bombs_are_not_unpacked(pack, monkeypatch):
    monkeypatch.setattr(packing, "MAX_IMAGE_BYTES", 1 << 20)
    assert "larger than 1 MiB" in refused(pack(bytes(8 << 20)))
    assert "larger than 1 MiB" in refused(bytes((1 << 20) + 1))


def test_segments_that_share_their_bytes_do_not_multiply(monkeypatch):
    monkeypatch.setattr("hypervisor.image.MAX_IMAGE_BYTES", 3 * len(CODE))
    many = [segment(paddr=0x100000 + 0x2000 * i) for i in range(4)]
    assert "segments of more than" in refused(elf(many, notes_blob=notes()))


def test_symbol_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(elffile, "MAX_SYMBOLS", 5)
    assert "symbol table of 9 entries" in refused(GOOD)


def test_loading_files(tmp_path):
    path = tmp_path / "toy.elf"
    path.write_bytes(GOOD)
    assert load_image(path).name == str(path)
    for bad, says in [
        (tmp_path / "absent", "no such file"),
        (tmp_path, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
    ]:
        with pytest.raises(ImageError, match=says):
            load_image(bad)


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe")


def test_pv_grub_is_an_image():
    image = load_image(Path(need("/usr/lib/grub-xen/grub-x86_64-xen.bin")))
    assert image.notes["GUEST_OS"] == "GRUB"
    assert (image.virt_base, image.entry, image.hypercall_page) == (0, 0, None)
    assert len(image.segments) == 2


# --- hostile files ---


def check_only_image_error(data):
    try:
        image = parse_image(data, "toy.elf")
    except ImageError:
        refused(data)
        return
    assert isinstance(image, KernelImage)
    assert image.virt_base <= image.virt_start <= image.entry < image.virt_end
    for piece in image.segments:
        assert image.virt_start <= piece.va < piece.end <= image.virt_end
        assert piece.filesz <= piece.memsz


# Where headers and notes are: mutations of the code in between would find nothing.
INTERESTING = [i for i in range(len(GOOD)) if GOOD[i : i + 64] not in CODE]
EDGES = [0, 1, 2, 0x7F, 0xFF, 2**16 - 1, 2**31, 2**32 - 1, 2**47, 2**63 - 1, 2**63, 2**64 - 1]


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([GOOD, old_style(OLD)]),
    st.lists(
        st.tuples(
            st.sampled_from(INTERESTING),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from(EDGES) | st.integers(0, 2**64 - 1),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_images_are_read_or_refused(image, changes):
    data = bytearray(image)
    for at, size, value in changes:
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    check_only_image_error(bytes(data))


FIELDS = [
    *(16 + at for at in (0, 2, 8, 16, 24, 32, 38, 40, 42, 44, 46)),
    *(64 + 56 * row + at for row in range(3) for at in (0, 4, 8, 16, 24, 32, 40)),
    *(len(GOOD) - 64 * 5 + 64 * row + at for row in range(5) for at in (0, 4, 24, 32, 40, 56)),
]


@pytest.mark.parametrize("at", FIELDS)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_every_header_field_may_hold_anything(at, size):
    for value in (*EDGES, len(GOOD), len(GOOD) - 1):
        data = bytearray(GOOD)
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        check_only_image_error(bytes(data[: len(GOOD)]))


@settings(deadline=None)
@given(st.sampled_from([GOOD, gzip.compress(GOOD), lzma.compress(GOOD)]), st.data())
def test_truncated_images_are_refused(image, data):
    refused(image[: data.draw(st.integers(0, len(image) - 1))])


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08"]))
def test_garbage_is_refused(tail, head):
    refused(head + tail)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_notes_are_read_or_refused(tail):
    check_only_image_error(elf(notes_blob=notes() + tail))


@settings(deadline=None)
@given(st.text("GUESTVIRBA=,|!0x19\0", max_size=120))
def test_garbage_guest_sections_are_read_or_refused(text):
    check_only_image_error(old_style(OLD.rstrip(b"\0") + b"," + text.encode()))
