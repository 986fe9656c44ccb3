"""Guest kernels, the include files they share, and the Python that finds, assembles and runs them.

The names below are those of ``guests.library``, which is loaded when the first of them is used: the
pytest plugin lives in this package too, and must cost nothing in a project without guests.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from guests import library

    return getattr(library, name)
