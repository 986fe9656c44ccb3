"""Kinds of values on the command line, and files: checked here, refused in one line.

Sizes are written as QEMU's ``-m`` and xl's ``memory`` take them: a number of MiB, or a number with
a suffix K, M, G or T (KiB and so on). Everything refused here is ``click.BadParameter``, exit 2.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from emu.units import PAGE_SIZE

if TYPE_CHECKING:
    _SizeType = click.ParamType[int]
    _CountType = click.ParamType[int]
    _DefineType = click.ParamType[tuple[str, int]]
else:  # generic only since click 8.4
    _SizeType = _CountType = _DefineType = click.ParamType

_SIZE: Final = re.compile(r"(\d{1,20})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS: Final = {"k": 10, "m": 20, "g": 30, "t": 40, "": 20}
_MAX_FILE: Final = 1 << 30
"""Largest module that is read, bytes."""


class Size(_SizeType):
    """Memory in bytes, a whole number of 4 KiB frames, within bounds (bytes)."""

    name = "size"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes; the default may be given as a number of them."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(
                f"{value!r} is not a size: a whole number of MiB, or with K, M, G or T,"
                " as in 256M (1536K is one and a half MiB)",
                param,
                ctx,
            )
        size = int(match[1]) << _UNITS[match[2].lower()]
        if not self.least <= size <= self.most:
            self.fail(
                f"{value}: must be between {size_text(self.least)} and {size_text(self.most)}",
                param,
                ctx,
            )
        if size % PAGE_SIZE:
            self.fail(f"{value}: must be a multiple of 4K", param, ctx)
        return size


class Count(_CountType):
    """Instructions, as manifests have them: ``5M``, ``100_000``; ``zero``: 0 is allowed too."""

    name = "count"

    def __init__(self, zero: bool = False) -> None:
        self.zero = zero

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """A number of instructions."""
        from guests.runner.counts import count

        if isinstance(value, int):
            return value
        if self.zero and value.strip() == "0":
            return 0
        try:
            return count(value)
        except ValueError as error:
            self.fail(f"{error}{'; 0 is no limit' if self.zero else ''}", param, ctx)


def count_text(number: int) -> str:
    """A number of instructions the way it is written on the command line."""
    for suffix, unit in (("G", 10**9), ("M", 10**6), ("K", 1000)):
        if number >= unit and not number % unit:
            return f"{number // unit}{suffix}"
    return str(number)


def size_text(size: int) -> str:
    """A size in bytes the way it is written on the command line."""
    for suffix, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size >= 1 << shift and not size % (1 << shift):
            return f"{size >> shift}{suffix}"
    return f"{size} bytes"


def read_module(path: str) -> bytes:
    """The contents of a boot module.

    Raises:
        click.BadParameter: there is no such file, it cannot be read, or it is too large.
    """
    try:
        if not Path(path).is_file():
            reason = "not a regular file" if Path(path).exists() else "no such file"
            raise click.BadParameter(f"{path}: {reason}", param_hint="--module")
        with Path(path).open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise click.BadParameter(f"{path}: {reason_of(error)}", param_hint="--module") from error
    if len(data) > _MAX_FILE:
        raise click.BadParameter(
            f"{path}: larger than {size_text(_MAX_FILE)}", param_hint="--module"
        )
    return data


def reason_of(error: Exception) -> str:
    """What went wrong with a file, in words and without its name."""
    return str(getattr(error, "strerror", None) or error)


class Define(_DefineType):
    """``NAME=VALUE`` with a number in C's notation; ``NAME`` alone is 1."""

    name = "name=value"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        """(name, value)."""
        if isinstance(value, tuple):
            return value
        name, equals, number = value.partition("=")
        if not re.fullmatch(r"[A-Za-z_.$][\w.$]*", name):
            self.fail(f"{value!r}: {name!r} is not a symbol's name", param, ctx)
        try:
            return name, int(number, 0) if equals else 1
        except ValueError:
            self.fail(f"{value!r}: {number!r} is not a number", param, ctx)
