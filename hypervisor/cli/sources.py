"""What GUEST on the command line means: a bundled name, an assembly source, or an image file.

A word without a slash that is the name of a bundled guest is that guest (``./hello`` is the file).
A file whose name ends in ``.asm``, ``.s`` or ``.S`` is assembled, one in ``.c`` is compiled with
the kit; any other is an ELF image, plain or packed, whatever it is called.
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


def build_source(path: Path) -> bytes:
    """The ELF image of a source, assembled or compiled.

    Raises:
        AssemblyError, CompileError: it cannot be read, assembled or compiled.
    """
    if path.suffix.lower() != ".c":
        return library.build_elf(path)
    from guests import ckit

    return ckit.build_elf(path)


def find_source(given: str) -> Source:
    """The guest that ``given`` names.

    Raises:
        ImageError: there is no such guest or file, or it cannot be booted.
        AssemblyError, CompileError: the source does not assemble or compile.
    """
    if not given:
        raise ImageError("an empty name is no guest (see 'cowbird guests')")
    path = Path(given)
    for bundled in library.BUNDLED:
        if bundled.name == given:
            kernel = parse_image(library.build_elf(bundled.path), given)
            return Source(given, given, kernel, bundled.memory, str(bundled.path))
    if not path.exists():
        raise ImageError(
            f"{given}: no such file, and no bundled guest of that name (see 'cowbird guests')"
        )
    if path.suffix.lower() in SOURCE_SUFFIXES:
        return Source(path.stem, given, parse_image(build_source(path), given), None, given)
    return Source(path.stem, given, load_image(path), None, given)
