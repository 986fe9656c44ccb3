"""Memory as text: gdb's ``x/NFU``, and values in one of its formats.

Format letters: ``x`` hex, ``d`` signed, ``u`` unsigned, ``o`` octal, ``t`` binary, ``c`` character,
``a`` address with its symbol, ``s`` text up to a zero, ``i`` instructions. Size letters: ``b`` 1,
``h`` 2, ``w`` 4, ``g`` 8 bytes. What cannot be read ends the output with a line that names the
first address that is not there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

SIZES: Final = {"b": 1, "h": 2, "w": 4, "g": 8}
FORMATS: Final = "xduotcasi"
MAX_BYTES: Final = 1 << 20
"""Bytes that one command shows at most."""
_MAX_TEXT: Final = 4096
_FORMAT: Final = re.compile(r"(-?\d*)([a-z]*)")
_PER_LINE: Final = {1: 8, 2: 8, 4: 4, 8: 2}
_M64: Final = (1 << 64) - 1

Read = Callable[[int, int], bytes]
"""Bytes at an address, fewer if not all of them can be read."""


class FormatError(ValueError):
    """What is written behind the slash makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class Format:
    """``/NFU``: how many, in which format, of how many bytes each."""

    count: int = 1
    letter: str = "x"
    size: int = 8


def parse_format(text: str, default: Format) -> Format:
    """What is written behind the slash, without it; the rest is as in ``default``.

    Raises:
        FormatError: an unknown letter, or a count that is no use.
    """
    match = _FORMAT.fullmatch(text.strip())
    if match is None:
        raise FormatError(f"/{text}: a count, a format of {FORMATS}, a size of bhwg")
    chosen = replace(default, count=1)
    if match[1]:
        count = int(match[1])
        if not 0 < count <= MAX_BYTES:
            raise FormatError(f"/{text}: a count between 1 and {MAX_BYTES}")
        chosen = replace(chosen, count=count)
    for letter in match[2]:
        if letter in SIZES:
            chosen = replace(chosen, size=SIZES[letter])
        elif letter in FORMATS:
            size = 1 if letter in "cs" and not set(match[2]) & set(SIZES) else chosen.size
            chosen = replace(chosen, letter=letter, size=size)
        else:
            raise FormatError(f"/{text}: {letter!r} is neither a format of {FORMATS} nor a size")
    return chosen


def value_text(value: int, letter: str, size: int, name: Callable[[int], str]) -> str:
    """One number of ``size`` bytes; ``name`` gives an address's symbol, or nothing."""
    value &= (1 << 8 * size) - 1
    signed = value - (1 << 8 * size) if value >> (8 * size - 1) else value
    if letter == "d":
        return str(signed)
    if letter == "u":
        return str(value)
    if letter == "o":
        return f"0{value:o}" if value else "0"
    if letter == "t":
        return f"{value:b}"
    if letter == "c":
        shown = chr(value) if 32 <= value < 127 else f"\\{value & 0xFF:03o}"
        return f"{signed} '{shown}'"
    if letter == "a":
        called = name(value)
        return f"{value:#x} <{called}>" if called else f"{value:#x}"
    return f"{value:#0{2 * size + 2}x}"


def examine(
    read: Read, address: int, wanted: Format, name: Callable[[int], str]
) -> tuple[str, int]:
    """Memory from ``address`` on (any letter but ``i``), and the address behind what was shown.

    ``name`` gives an address's symbol; where memory is not linear it gives nothing.
    """
    if wanted.letter == "s":
        return _texts(read, address, wanted.count, name)
    size = wanted.size
    length = min(wanted.count * size, MAX_BYTES)
    data = read(address, length)
    whole = len(data) // size
    per_line = 2 if wanted.letter == "a" else _PER_LINE[size]
    lines = []
    for first in range(0, whole, per_line):
        numbers = (
            int.from_bytes(data[i * size : (i + 1) * size], "little")
            for i in range(first, min(first + per_line, whole))
        )
        shown = "\t".join(value_text(number, wanted.letter, size, name) for number in numbers)
        lines.append(f"{_place(address + first * size, name)}:\t{shown}")
    if whole * size < length:
        lines.append(unreadable(address + len(data)))
    return "\n".join(lines), (address + whole * size) & _M64


def unreadable(address: int) -> str:
    """The line for memory that is not there."""
    return f"cannot read memory at {address & _M64:#x}"


def _place(address: int, name: Callable[[int], str]) -> str:
    called = name(address & _M64)
    return f"{address & _M64:#x} <{called}>" if called else f"{address & _M64:#x}"


def _texts(read: Read, address: int, count: int, name: Callable[[int], str]) -> tuple[str, int]:
    lines = []
    for _ in range(count):
        data = read(address, _MAX_TEXT)
        if not data:
            lines.append(unreadable(address))
            break
        text, zero, _ = data.partition(b"\0")
        shown = "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else _escape(c) for c in text)
        lines.append(f'{_place(address, name)}:\t"{shown}"' + ("" if zero else "..."))
        address += len(text) + len(zero)
    return "\n".join(lines), address & _M64


def _escape(code: int) -> str:
    known = {10: "\\n", 9: "\\t", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return known.get(code, f"\\{code:03o}")
