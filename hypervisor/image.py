"""A guest kernel's file, read and checked, before anything runs.

``load_image`` and ``parse_image`` turn an ELF file, plain or packed, into a ``KernelImage``: what
is to be loaded where, and what the kernel says about itself. A file is hostile until read: every
offset is checked against the file before use, unpacking is bounded, and whatever is wrong
becomes exactly one ``ImageError`` that names the file.

The rules are those of the real hypervisor (xen/common/libelf/libelf-dominfo.c), because kernels
were written against them:

* The kernel describes itself in notes named ``Xen``: those of the PT_NOTE segments whose file
  offset is not 0; if these hold none, those of the SHT_NOTE sections; if there are none either,
  the text of the section ``__xen_guest``. With none of the three it is no Xen PV kernel.
* It must say LOADER ``generic...`` or GUEST_OS ``linux...``, and XEN_VERSION ``xen-3.0...``.
* A segment is loaded by its **physical** address: at VIRT_BASE - PADDR_OFFSET + p_paddr. The
  segment's own p_vaddr does not count (Linux links its per-CPU segment at 0).
* VIRT_BASE defaults to 0. PADDR_OFFSET defaults to 0 with notes and to VIRT_BASE with
  ``__xen_guest``; it may not be given without VIRT_BASE.
* ENTRY defaults to the ELF header's entry point and must lie within the image. Xen lets it equal
  the image's end; here it may not, since there is nothing to run there.
* In ``__xen_guest``, HYPERCALL_PAGE is a page number relative to VIRT_BASE; in notes, an address.
* A P2M base (INIT_P2M) may not lie within the image.

BSD_SYMTAB is reported but no symbol table is loaded behind the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path

from emu.errors import ImageError
from emu.units import PAGE_MASK, PAGE_SHIFT, VA, is_canonical
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START_PAE,
    ElfNote,
    Width,
    XenFeat,
)
from hypervisor.elffile import (
    TEXT_NOTES,
    ElfFile,
    NoteValue,
    read_notes,
    read_symbols,
    text_of,
)
from hypervisor.packing import MAX_IMAGE_BYTES, BadImageError, unpack

_GUEST_KEYS = {
    "GUEST_VER": ElfNote.GUEST_VERSION,
    "XEN_VER": ElfNote.XEN_VERSION,
    "ELF_PADDR_OFFSET": ElfNote.PADDR_OFFSET,
    "VIRT_ENTRY": ElfNote.ENTRY,
    "PAE": ElfNote.PAE_MODE,
}
"""Keys of ``__xen_guest`` that are not called as the notes are."""


class SegmentFlags(IntFlag):
    """``p_flags`` of a program header. Xen maps every segment writable; these inform only."""

    X = 1
    W = 2
    R = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD segment: ``data`` at ``va``, then zeroes up to ``memsz``."""

    va: VA
    """Linear address at which it is loaded."""
    vaddr: int
    """``p_vaddr``: the linear address for which it was linked; usually ``va``."""
    paddr: int
    """``p_paddr``, bytes."""
    memsz: int
    """Bytes in memory, at least ``filesz``."""
    flags: SegmentFlags
    data: bytes

    @property
    def filesz(self) -> int:
        """Bytes that come from the file."""
        return len(self.data)

    @property
    def end(self) -> VA:
        """First linear address after it."""
        return VA(self.va + self.memsz)


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A Xen PV kernel, ready for the builder."""

    name: str
    width: Width
    """Bits of its ``unsigned long``."""
    segments: tuple[Segment, ...]
    """In the file's order, none empty; they may overlap, then the later one wins."""
    entry: VA
    virt_base: VA
    """Linear address of PFN 0."""
    paddr_offset: int
    """What is to be taken from p_paddr to get a pseudo-physical address, bytes."""
    virt_start: VA
    """Lowest address of the image (Xen's virt_kstart), not below ``virt_base``."""
    virt_end: VA
    """First address after the image (Xen's virt_kend)."""
    hypercall_page: VA | None
    """Page to fill with hypercall stubs, page-aligned and within the image."""
    init_p2m: VA | None
    """Where the guest wants its P2M list; None: behind the image."""
    mod_start_pfn: bool
    """The guest takes its module as a PFN and not mapped."""
    features: frozenset[XenFeat]
    """Features that the guest can make use of, required ones included."""
    extended_cr3: bool
    """A 32-bit guest that knows CR3 values of frames from 4 GiB on."""
    required_features: frozenset[XenFeat]
    """Features without which it refuses to run."""
    notes: Mapping[str, NoteValue]
    """What it says about itself, by ElfNote name, for a person to read."""
    symbols: Mapping[str, VA]
    """Its symbol table; empty if the file was stripped. Of equal names a global one wins."""
    constants: frozenset[str] = frozenset()
    """Those of its symbols that are numbers and no addresses."""
    elf: bytes = field(default=b"", repr=False, compare=False)
    """The file, unpacked: for debuggers, which want its line information."""


def load_image(path: Path) -> KernelImage:
    """Read the kernel in the file ``path``.

    Raises ImageError if the file cannot be read, or for any of ``parse_image``'s reasons.
    """
    return parse_image(read_image(path), str(path))


def read_image(path: Path) -> bytes:
    """The bytes of the file ``path``, which nothing has looked at.

    Raises ImageError if it cannot be read; a byte more than may be is read of what is too large.
    """
    name = str(path)
    try:
        # A pipe or a device could keep the reader waiting, or reading, for ever.
        if not path.is_file():
            reason = "not a regular file" if path.exists() else "no such file"
            raise ImageError(f"{name}: {reason}")
        with path.open("rb") as stream:
            return stream.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: {reason}") from error


def parse_image(data: bytes, name: str) -> KernelImage:
    """Read the kernel in ``data``: ELF, or ELF in what ``packing`` knows, a bzImage included.

    ``name`` stands in the image and in every message. Raises ImageError, and nothing else, if
    the bytes are not the image of a Xen PV kernel, 64-bit or 32-bit with PAE.
    """
    try:
        return build_image(ElfFile(unpack(data)[0]), name)
    except BadImageError as error:
        raise ImageError(f"{name}: {error}") from error


# --- what the kernel says about itself ---


def _number(text: str, what: str) -> int:
    """A C number, decimal, octal or hexadecimal, of 64 bits."""
    base = 16 if text[:2].lower() == "0x" else 8 if text.startswith("0") else 10
    try:
        value = int(text, base)
    except ValueError as error:
        raise BadImageError(f"__xen_guest: {what}={text[:40]!r} is not a number") from error
    if not 0 <= value < 1 << 64:
        raise BadImageError(f"__xen_guest: {what}={text[:40]!r} is not a 64-bit number")
    return value


def read_guest_section(elf: ElfFile) -> dict[str, NoteValue]:
    """The older description: ``KEY=value,KEY=value`` in section __xen_guest, as if from notes."""
    section = elf.section_named(b"__xen_guest")
    if section is None:
        return {}
    notes: dict[str, NoteValue] = {}
    for item in text_of(elf.section_data(section, "section __xen_guest")).split(","):
        key, _, value = item.partition("=")
        note = _GUEST_KEYS.get(key) or ElfNote.__members__.get(key)
        if note is None:
            continue
        notes[note.name] = value if note in TEXT_NOTES else _number(value, key)
    page = notes.get("HYPERCALL_PAGE")
    if isinstance(page, int):
        notes["HYPERCALL_PAGE"] = (page << PAGE_SHIFT) + (_address(notes, ElfNote.VIRT_BASE) or 0)
    return notes


def read_features(notes: Mapping[str, NoteValue]) -> tuple[frozenset[XenFeat], frozenset[XenFeat]]:
    """(supported, required) features, from both notes that name them."""
    supported: set[XenFeat] = set()
    required: set[XenFeat] = set()
    for item in str(notes.get("FEATURES", "")).split("|"):
        feature = XenFeat.__members__.get(item.removeprefix("!"))
        if feature is not None:
            supported.add(feature)
            if item.startswith("!"):
                required.add(feature)
        elif item.startswith("!"):
            raise BadImageError(f"requires the unknown feature {item[1:41]!r}")
    bits = notes.get("SUPPORTED_FEATURES", 0)
    if isinstance(bits, bytes):
        bits = int.from_bytes(bits[:4], "little")
    if isinstance(bits, int):
        supported.update(feature for feature in XenFeat if bits >> feature & 1)
    return frozenset(supported), frozenset(required)


def _check_identity(notes: Mapping[str, NoteValue]) -> None:
    """Refuse what Xen would refuse by what the kernel says it is."""
    if not notes:
        raise BadImageError("not a Xen PV kernel: no Xen ELF notes and no __xen_guest section")
    loader, guest_os = str(notes.get("LOADER", "")), str(notes.get("GUEST_OS", ""))
    if not loader.startswith("generic") and not guest_os.startswith("linux"):
        if "PHYS32_ENTRY" in notes:
            raise BadImageError("not a Xen PV kernel: its notes offer PVH entry only")
        raise BadImageError(
            f"built neither for the generic loader nor as Linux (LOADER={loader[:40]!r},"
            f" GUEST_OS={guest_os[:40]!r})"
        )
    version = str(notes.get("XEN_VERSION", ""))
    if not version.startswith("xen-3.0"):
        raise BadImageError(f"not built for xen-3.0 (XEN_VERSION={version[:40]!r})")


def _check_pae(notes: Mapping[str, NoteValue], from_notes: bool) -> bool:
    """Refuse a 32-bit kernel that does not say that it has PAE page tables.

    Returns whether it knows CR3 values with frame numbers of more than 20 bits.
    """
    mode = str(notes.get("PAE_MODE", ""))
    extended = mode == "yes" or "bimodal" in mode
    if not from_notes:
        extended = mode == "yes[extended-cr3]"
    if extended or (not from_notes and mode.startswith("yes")):
        return extended
    said = f"PAE_MODE={mode[:40]!r}" if mode else "it does not say PAE"
    raise BadImageError(f"a 32-bit kernel without PAE page tables ({said}): only PAE guests run")


# --- putting it together ---


def _address(notes: Mapping[str, NoteValue], note: ElfNote) -> int | None:
    value = notes.get(note.name)
    return value if isinstance(value, int) else None


def _check_place(start: int, end: int, width: Width, what: str) -> None:
    """Refuse addresses [start, end) that no guest can have."""
    if width == 64:
        usable = is_canonical(start) and is_canonical(end - 1) and start >> 63 == (end - 1) >> 63
        usable = usable and (end <= HYPERVISOR_VIRT_START or start >= HYPERVISOR_VIRT_END)
    else:
        usable = end <= HYPERVISOR_VIRT_START_PAE
    if not usable or start >= end:
        raise BadImageError(f"{what} at {start:#x}..{end:#x} is outside a guest's address space")


def _load_segments(elf: ElfFile, virt_offset: int) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    from_file = 0
    for header in elf.segments:
        if header["p_type"] != "PT_LOAD" or not header["p_flags"] & 7 or header["p_memsz"] == 0:
            continue
        filesz, memsz = header["p_filesz"], header["p_memsz"]
        if filesz > memsz:
            raise BadImageError(f"a segment of {memsz:#x} bytes has {filesz:#x} in the file")
        # Segments may overlap in the file; a small file must not become a huge image by that.
        from_file += filesz
        if from_file > MAX_IMAGE_BYTES:
            raise BadImageError(f"segments of more than {MAX_IMAGE_BYTES >> 20} MiB in all")
        va = (header["p_paddr"] + virt_offset) % (1 << elf.width)
        _check_place(va, va + memsz, elf.width, "a segment")
        segments.append(
            Segment(
                va=VA(va),
                vaddr=header["p_vaddr"],
                paddr=header["p_paddr"],
                memsz=memsz,
                flags=SegmentFlags(header["p_flags"] & 7),
                data=elf.slice(header["p_offset"], filesz, "a segment"),
            )
        )
    if not segments:
        raise BadImageError("nothing to load: no PT_LOAD segment")
    return tuple(segments)


def build_image(elf: ElfFile, name: str) -> KernelImage:
    """The kernel in an ELF file; raises BadImageError, without the name, if it is none."""
    notes = read_notes(elf)
    from_notes = bool(notes)
    notes = notes or read_guest_section(elf)
    _check_identity(notes)
    extended_cr3 = elf.width == 32 and _check_pae(notes, from_notes)

    virt_base = _address(notes, ElfNote.VIRT_BASE)
    paddr_offset = _address(notes, ElfNote.PADDR_OFFSET)
    if virt_base is None:
        if paddr_offset is not None:
            raise BadImageError("PADDR_OFFSET is given without VIRT_BASE")
        virt_base = 0
    if paddr_offset is None:
        paddr_offset = 0 if from_notes else virt_base

    segments = _load_segments(elf, virt_base - paddr_offset)
    start, end = min(s.va for s in segments), max(s.end for s in segments)
    _check_place(start, end, elf.width, "the image")
    if not virt_base <= start:
        raise BadImageError(f"the image at {start:#x} lies below VIRT_BASE {virt_base:#x}")

    entry = _address(notes, ElfNote.ENTRY)
    if entry is None:
        entry = int(elf.header["e_entry"])
    if not start <= entry < end:
        raise BadImageError(f"entry {entry:#x} is outside the image at {start:#x}..{end:#x}")
    hypercall_page = _address(notes, ElfNote.HYPERCALL_PAGE)
    if hypercall_page is not None and (
        hypercall_page & PAGE_MASK or not start <= hypercall_page < end
    ):
        raise BadImageError(f"HYPERCALL_PAGE {hypercall_page:#x} is not a page of the image")
    init_p2m = _address(notes, ElfNote.INIT_P2M)
    if init_p2m is not None:
        _check_place(init_p2m, init_p2m + 1, elf.width, "INIT_P2M")
        if init_p2m & PAGE_MASK or start <= init_p2m < end:
            raise BadImageError(f"INIT_P2M {init_p2m:#x} is unaligned or within the image")

    features, required = read_features(notes)
    symbols, constants = read_symbols(elf)
    return KernelImage(
        name=name,
        width=elf.width,
        segments=segments,
        entry=VA(entry),
        virt_base=VA(virt_base),
        paddr_offset=paddr_offset,
        virt_start=start,
        virt_end=end,
        hypercall_page=None if hypercall_page is None else VA(hypercall_page),
        init_p2m=None if init_p2m is None else VA(init_p2m),
        mod_start_pfn=bool(notes.get("MOD_START_PFN", 0)),
        features=features,
        extended_cr3=extended_cr3,
        required_features=required,
        notes=notes,
        symbols=symbols,
        constants=constants,
        elf=elf.data,
    )
