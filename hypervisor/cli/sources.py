"""What GUEST on the command line means: a bundled name, an assembly source, or an image file.

A word without a slash that is the name of a bundled guest is that guest (``./hello`` is the file).
A file whose name ends in ``.asm``, ``.s`` or ``.S`` is assembled, one in ``.c`` is compiled with
the kit; any other is an ELF image, plain or packed, whatever it is called. ``--width`` says for
what width a source or a bundled guest is built; an image has the width that it has.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emu.errors import ImageError
from emu.units import PAGE_SIZE
from guests import library
from hypervisor.image import KernelImage, load_image, parse_image

SOURCE_SUFFIXES: Final = (".asm", ".s", ".c")
_LEAST_MEMORY: Final = 16 << 20
"""Default memory of a guest that is not bundled, bytes, if it needs no more."""
_ROOM: Final = 8 << 20
"""Bytes beyond image and module that a guest which says nothing is given."""


@dataclass(frozen=True, slots=True)
class Source:
    """A guest that can be booted. ``memory``: bytes by default, None if it does not say.

    ``path`` is the file that it comes from; "" where that is no matter.
    """

    name: str
    given: str
    kernel: KernelImage
    memory: int | None
    path: str = ""

    def default_memory(self, module: bytes | None) -> int:
        """Bytes for a domain with this module, if the user names no size."""
        pages = -(-len(module or b"") // PAGE_SIZE)
        if self.memory is not None:
            return self.memory + pages * PAGE_SIZE
        span = self.kernel.virt_end - self.kernel.virt_base
        return max(_LEAST_MEMORY, -(-span // PAGE_SIZE) * PAGE_SIZE + pages * PAGE_SIZE + _ROOM)


def build_source(path: Path, width: int = 64) -> bytes:
    """The ELF image of a source, assembled or compiled for guests of 32 or 64 bits.

    Raises:
        AssemblyError, CompileError: it cannot be read, assembled or compiled.
    """
    if path.suffix.lower() != ".c":
        return library.build_elf(path, width)
    from guests import ckit

    return ckit.build_elf(path, width=width)


def find_source(given: str, width: int | None = None) -> Source:
    """The guest that ``given`` names, of ``width`` bits if that is given.

    Raises:
        ImageError: there is no such guest or file, or it cannot be booted.
        AssemblyError, CompileError: the source does not assemble or compile.
    """
    if not given:
        raise ImageError("an empty name is no guest (see 'cowbird guests')")
    path = Path(given)
    bundled = library.bundled(given, width)
    if bundled is not None:
        name = bundled.name
        kernel = parse_image(library.build_elf(bundled.path, bundled.width), name)
        return Source(name, given, kernel, bundled.memory, str(bundled.path))
    if not path.exists():
        raise ImageError(
            f"{given}: no such file, and no bundled guest of that name (see 'cowbird guests')"
        )
    if path.suffix.lower() in SOURCE_SUFFIXES:
        kernel = parse_image(build_source(path, width or 64), given)
        return Source(path.stem, given, kernel, None, given)
    kernel = load_image(path)
    if width not in (None, kernel.width):
        raise ImageError(
            f"{given}: a {kernel.width}-bit image; --width {width} is for what is built here"
        )
    return Source(path.stem, given, kernel, None, given)
