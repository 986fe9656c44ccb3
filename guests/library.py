"""The bundled guest kernels: what there is, and how a source becomes a bootable image.

A guest is one ``.asm`` file here, with its one-line description as its first comment; ``lib/`` is
what guests include, and any other source may (``.include "lib/kernel.inc"``). ``build_elf`` makes
an ELF file with Xen's notes that boots on this hypervisor and on the real Xen alike.

Layout: linked at ``VIRT_BASE[bits]``, the address of PFN 0, where Linux has it too: for 64 bits in
the top 2 GiB, where a 32-bit displacement reaches every label, for 32 bits at 3 GiB; address 0 is
not mapped. ``p_paddr`` counts from there, so PADDR_OFFSET is 0. A source that has the label
``hypercall_page`` gets its note.

A source can be assembled for either width of guest; the bundled ones and their library are written
for both.

Everything raised is ``AssemblyError`` (the source) or ``ImageError`` (the result, or a name).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from emu.asm import Program, assemble
from emu.elf import Note, write_elf
from emu.errors import ImageError
from hypervisor.abi.elfnote import NOTE_NAME, ElfNote

DIRECTORY: Final = Path(__file__).resolve().parent
"""Where the bundled sources are; also the place from which sources include ``lib/``."""
VIRT_BASE: Final = 0xFFFF_FFFF_8000_0000
VIRT_BASE_32: Final = 0xC000_0000
"""Linear address of PFN 0 and of a kernel's first byte, for each width (as in ``lib/xen.inc``)."""
SUFFIX: Final = ".asm"

_NO_DEFINES: Final[Mapping[str, int]] = {}
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundled kernel of one width; ``memory`` is what a domain for it gets by default, bytes.

    ``source`` is the name of its source, which it shares with the kernel of the other width.
    """

    name: str
    description: str
    memory: int
    source: str
    width: int = 64

    @property
    def path(self) -> Path:
        """Its source."""
        return DIRECTORY / f"{self.source}{SUFFIX}"


_MEMORY: Final = {
    "hello": 1 * _MIB,
    "share": 8 * _MIB,
    "fork": 4 * _MIB,
    "text": 1 * _MIB,
    "storm": 4 * _MIB,
    "churn": 4 * _MIB,
}


def describe(path: Path) -> str:
    """The first comment of a source, which is its one-line description; empty if it has none."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip(";#/ ").strip() if first[:1] in ";#/" else ""


BUNDLED: Final = tuple(
    Bundled(name, describe(DIRECTORY / f"{name}{SUFFIX}"), memory, name)
    for name, memory in _MEMORY.items()
) + tuple(
    Bundled(f"{name}32", f"The 32-bit (PAE) kernel from the source of '{name}'.", memory, name, 32)
    for name, memory in _MEMORY.items()
)
"""All bundled kernels, in the order in which they are best met: those of 64 bits, then 32."""


def bundled(name: str, width: int | None = None) -> Bundled | None:
    """The bundled kernel ``name``, or None; ``width`` asks for ``share`` in 32 bits, say."""
    found = next((guest for guest in BUNDLED if guest.name == name), None)
    if found is None or width is None or found.width == width:
        return found
    # 'share' with another width; but 'share32' is of 32 bits, whatever else is asked for.
    others = (g for g in BUNDLED if g.source == name and g.width == width)
    return next(others, None)


def find(name: str) -> Path:
    """The source of the bundled kernel ``name``.

    Raises ImageError, naming what there is, if it is not one of them.
    """
    guest = bundled(name)
    if guest is not None:
        return guest.path
    known = ", ".join(guest.name for guest in BUNDLED)
    raise ImageError(f"{name}: no such bundled guest; there are {known}")


def virt_base(width: int) -> int:
    """Where a kernel of 32 or 64 bits is linked."""
    return VIRT_BASE if width == 64 else VIRT_BASE_32


def assemble_guest(
    path: Path, *, width: int = 64, defines: Mapping[str, int] = _NO_DEFINES
) -> Program:
    """Assemble a guest's source, linked where ``build_elf`` wants it.

    ``defines`` are constants that the source can test (``.ifdef``). Raises AssemblyError.
    """
    return assemble(
        path, base=virt_base(width), bits=width, include_dirs=(DIRECTORY,), defines=defines
    )


def xen_notes(program: Program) -> list[Note]:
    """The notes by which an assembled kernel introduces itself to Xen."""

    def number(note: ElfNote, value: int) -> Note:
        return Note(name, note, value.to_bytes(program.bits // 8, "little"))

    def text(note: ElfNote, value: str) -> Note:
        return Note(name, note, value.encode() + b"\0")

    name = NOTE_NAME.decode()
    notes = [
        text(ElfNote.GUEST_OS, "cowbird"),
        text(ElfNote.GUEST_VERSION, "1"),
        text(ElfNote.XEN_VERSION, "xen-3.0"),
        number(ElfNote.VIRT_BASE, virt_base(program.bits)),
        number(ElfNote.PADDR_OFFSET, 0),
        number(ElfNote.ENTRY, program.entry),
        text(ElfNote.FEATURES, ""),
        text(ElfNote.LOADER, "generic"),
        text(ElfNote.PAE_MODE, "yes"),
    ]
    if "hypercall_page" in program.labels:
        notes.append(number(ElfNote.HYPERCALL_PAGE, program.symbols["hypercall_page"]))
    return notes


def to_elf(program: Program) -> bytes:
    """An assembled kernel as a Xen PV ELF file with symbols. Raises ImageError."""
    return write_elf(
        program, notes=xen_notes(program), bits=program.bits, virt_base=virt_base(program.bits)
    )


def build_elf(path: Path, width: int = 64) -> bytes:
    """A guest's source as a Xen PV ELF file of 32 or 64 bits; bundled ones are assembled once.

    Raises AssemblyError or ImageError.
    """
    if path.parent == DIRECTORY:
        return _build_bundled(path, width)
    return to_elf(assemble_guest(path, width=width))


@cache
def _build_bundled(path: Path, width: int) -> bytes:
    return to_elf(assemble_guest(path, width=width))
