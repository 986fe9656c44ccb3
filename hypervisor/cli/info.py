"""``cowbird info``: what an image is and says about itself, and whether it would be refused."""

import sys
from pathlib import Path
from typing import Final

import click

from emu.errors import ImageError
from emu.memory import MAX_BYTES
from emu.units import PAGE_SHIFT, PAGE_SIZE
from guests import library
from hypervisor.abi import XenFeat
from hypervisor.builder import MIN_MEMORY, Layout, plan
from hypervisor.cli.options import Size, size_text
from hypervisor.cli.sources import SOURCE_SUFFIXES, Source, build_source
from hypervisor.elffile import ElfFile, NoteValue, list_notes, text_of
from hypervisor.errors import DomainError
from hypervisor.hypercalls.version import FEATURES
from hypervisor.image import (
    KernelImage,
    SegmentFlags,
    build_image,
    read_features,
    read_guest_section,
    read_image,
)
from hypervisor.packing import BadImageError, unpack

_COLUMN: Final = 10
_LONGEST: Final = 200
"""Characters of a note's text that are shown."""
_MOST: Final = 64
"""Notes and segments that are listed one by one."""


@click.command(short_help="Say what IMAGE is and whether it would boot.")
@click.argument("image", metavar="IMAGE")
@click.option(
    "--memory",
    type=Size(MIN_MEMORY, MAX_BYTES),
    metavar="SIZE",
    help="Show the layout in a domain of this size.  [default: what 'boot' would give it]",
)
def info(image: str, memory: int | None) -> None:
    """Say what IMAGE is and whether it would boot, without running it.

    IMAGE is the name of a bundled guest, an assembly source, or a kernel: an ELF file or a Linux
    bzImage, plain or packed by gzip, xz, lzma, bzip2 or zstd. What would be refused is the last
    line, on stderr, and exit code 2.
    """
    bundled = library.bundled(image)
    path = Path(image)
    own: int | None = None
    if bundled is not None:
        data = library.build_elf(bundled.path, bundled.width)
        name, own = bundled.name, bundled.memory
    elif not path.exists():
        raise ImageError(
            f"{image}: no such file, and no bundled guest of that name (see 'cowbird guests')"
        )
    elif path.suffix.lower() in SOURCE_SUFFIXES:
        data, name = build_source(path), path.stem
    else:
        data, name = read_image(path), path.stem
    try:
        unpacked, layers = unpack(data)
        elf = ElfFile(unpacked)
        _line("file", f"{len(data):,} bytes" + (f": {', '.join(layers)}" if layers else ""))
        _line("format", f"ELF{elf.width}, {elf.width}-bit, {elf.header['e_machine'][3:].lower()}")
        _notes(elf)
        kernel = build_image(elf, image)
        if kernel.width == 32:
            known = "known" if kernel.extended_cr3 else "not known: its L3 tables lie below 4 GiB"
            _line("tables", f"PAE; extended CR3 is {known}")
    except BadImageError as error:
        raise ImageError(f"{image}: {error}") from error
    _kernel(kernel)
    source = Source(name, image, kernel, own)
    _layout(kernel, source.default_memory(None) if memory is None else memory)
    missing = sorted(f.name for f in kernel.required_features if f not in FEATURES)
    if missing:
        raise DomainError(f"{image}: requires {', '.join(missing)}, which is not offered")
    _line("refused", "nothing: 'cowbird boot' takes it")


def _line(label: str, text: str) -> None:
    sys.stdout.write(f"{label:<{_COLUMN}}{text}\n")


def _shown(value: NoteValue) -> str:
    """A note's value; a hostile file's text stays one line."""
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, bytes):
        return value[: _LONGEST // 2].hex(" ", 8) + ("..." if len(value) > _LONGEST // 2 else "")
    text = value.encode("unicode_escape").decode("ascii")
    return text[:_LONGEST] + ("..." if len(text) > _LONGEST else "")


def _notes(elf: ElfFile) -> None:
    """Every note in the file's order; of one that is there twice, all."""
    notes = list_notes(elf)
    section = elf.section_named(b"__xen_guest")
    if not notes and section is not None:
        text = text_of(elf.section_data(section, "section __xen_guest"))
        _line("notes", f"none; section __xen_guest says {_shown(text)}")
        notes = list(read_guest_section(elf).items())
    elif not notes:
        _line("notes", "none")
        return
    else:
        _line("notes", str(len(notes)))
    last = dict(notes)
    width = max(len(name) for name, _ in notes)
    for name, value in notes[:_MOST]:
        doubt = "" if last[name] == value else "  (contradicted further on; the last counts)"
        _line("", f"{name:<{width}}  {_shown(value)}{doubt}")
    if len(notes) > _MOST:
        _line("", f"... and {len(notes) - _MOST} more")
    supported, required = read_features(last)
    _line("features", f"required: {_names(required)}")
    _line("", f"supported: {_names(supported)}")


def _names(features: frozenset[XenFeat]) -> str:
    return ", ".join(
        f.name + ("" if f in FEATURES else " (not offered here)") for f in sorted(features)
    ) or ("none")


def _kernel(kernel: KernelImage) -> None:
    _line("entry", f"{kernel.entry:#x}")
    size = kernel.virt_end - kernel.virt_base
    _line("image", f"{kernel.virt_start:#x}..{kernel.virt_end:#x}")
    _line("", f"VIRT_BASE {kernel.virt_base:#x} is PFN 0; {-(-size // PAGE_SIZE)} pages from there")
    page = kernel.hypercall_page
    _line("hypercall", "no page asked for" if page is None else f"page at {page:#x}")
    _line("module", "passed as a PFN, unmapped" if kernel.mod_start_pfn else "mapped")
    _line("segments", f"{len(kernel.segments)}")
    for part in kernel.segments[:_MOST]:
        flags = "".join(f.name or "" for f in reversed(SegmentFlags) if f in part.flags)
        _line(
            "",
            f"{part.va:#x}..{part.end:#x}  {flags:<3}  p_paddr {part.paddr:#x},"
            f" {part.filesz:#x} of {part.memsz:#x} bytes in the file",
        )
    if len(kernel.segments) > _MOST:
        _line("", f"... and {len(kernel.segments) - _MOST} more")
    _line("symbols", f"{len(kernel.symbols):,}")


def _layout(kernel: KernelImage, memory: int) -> None:
    """Where the builder would put what the guest finds at its start.

    Raises:
        DomainError: it does not fit.
    """
    where = plan(kernel, memory)
    _line("layout", f"in {size_text(memory)} ({where.pages} pages)")
    for name, first, count in _parts(kernel, where):
        va = f"{kernel.virt_base + (first << PAGE_SHIFT):#x}"
        if name == "P2M list" and kernel.init_p2m is not None:
            va = f"{kernel.init_p2m:#x} (INIT_P2M)"
        _line("", f"{name:<14}PFN {first:>6}, {count:>5} pages  at {va}")


def _parts(kernel: KernelImage, where: Layout) -> list[tuple[str, int, int]]:
    """(what, first PFN, pages), by PFN."""
    image = -(-(kernel.virt_end - kernel.virt_base) // PAGE_SIZE)
    parts = [
        ("image", 0, image),
        ("P2M list", where.p2m, where.p2m_pages),
        ("start_info", where.start_info, 1),
        ("XenStore page", where.store, 1),
        ("console page", where.console, 1),
        ("page tables", where.tables, where.table_pages),
        ("boot stack", where.stack, 1),
        ("mapped, free", where.stack + 1, where.mapped - where.stack - 1),
    ]
    return sorted(parts, key=lambda part: part[1])
