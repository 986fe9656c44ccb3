"""From a program's file to the ELF image that is booted.

Assembly goes through ``guests.library``, C through ``guests.ckit``; anything else is an image and
is taken as it is. The bytes are the same for both hypervisors.

How it fails: ``BuildError`` with the assembler's or compiler's own words (``file:line: message``),
or with what is missing.
"""

from functools import partial
from pathlib import Path
from typing import Final

from emu.errors import CowbirdError
from guests.runner import elfcache
from guests.runner.collect import is_source

MAX_IMAGE: Final = 1 << 28
"""Bytes of the largest image that is read."""


class BuildError(CowbirdError):
    """A program cannot be made into an image, or one of its files cannot be read."""


def build(path: Path, width: int = 64) -> bytes:
    """The image of one source, built for guests of 32 or 64 bits, or of one image file.

    Raises:
        BuildError: it does not assemble or compile, or cannot be read.
    """
    try:
        if not is_source(path):
            return read_file(path)
        if path.suffix.lower() == ".c":
            from guests import ckit

            return ckit.build_elf(path, width=width)
        return elfcache.build(path, partial(_assemble, width=width), width)
    except BuildError:
        raise
    except CowbirdError as error:
        raise BuildError(str(error)) from error


def _assemble(path: Path, width: int) -> bytes:
    from guests import library

    return library.build_elf(path, width)


def read_file(path: Path) -> bytes:
    """The bytes of an image or module.

    Raises:
        BuildError: it cannot be read, or is larger than ``MAX_IMAGE``.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_IMAGE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise BuildError(f"{path}: cannot be read: {reason}") from error
    if len(data) > MAX_IMAGE:
        raise BuildError(f"{path}: larger than {MAX_IMAGE >> 20} MiB")
    return data
