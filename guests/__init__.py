"""Guest kernels, the include files they share, and the Python that finds and assembles them."""

from guests.library import (
    BUNDLED,
    DIRECTORY,
    VIRT_BASE,
    Bundled,
    assemble_guest,
    build_elf,
    find,
    to_elf,
)

__all__ = [
    "BUNDLED",
    "DIRECTORY",
    "VIRT_BASE",
    "Bundled",
    "assemble_guest",
    "build_elf",
    "find",
    "to_elf",
]
