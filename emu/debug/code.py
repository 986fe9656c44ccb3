"""Disassembly for people: symbols of targets, source lines, an arrow at the next instruction.

Bytes are read without side effects; code that is not mapped ends the listing with a line that says
so. A source line is shown where the line table knows one and the file is there to be read.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from emu.asm import LineTable
from emu.debug.examine import Read, unreadable
from emu.disasm import Instruction, disassemble

MAX_LENGTH: Final = 15
"""Bytes of the longest instruction."""
MAX_INSTRUCTIONS: Final = 10_000
_MAX_SOURCE: Final = 4 << 20
_COMMENTED: Final = (".asm", ".inc")
"""Sources in which a semicolon begins a comment."""
_TARGET: Final = re.compile(r"^(?:call|j\w+|loop\w*)$")
_RIP: Final = re.compile(r"\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_M64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Names:
    """How addresses of one program are called. ``symbol``: ``main+0x4``, or nothing."""

    symbol: Callable[[int], str]
    lines: LineTable

    def place(self, address: int) -> str:
        """The address, with its symbol if it has one."""
        called = self.symbol(address)
        return f"{address:#x} <{called}>" if called else f"{address:#x}"

    def line(self, address: int) -> str:
        """``share.asm:12``, or nothing."""
        found = self.lines.lookup(address)
        return "" if found is None else f"{Path(found[0]).name}:{found[1]}"

    def source(self, address: int) -> str:
        """``share.asm:12: text of the line``, or nothing."""
        found = self.lines.lookup(address)
        if found is None:
            return ""
        text = source_line(*found)
        if Path(found[0]).suffix in _COMMENTED:
            text = text.partition(";")[0]
        return f"{self.line(address)}: {text.strip()}" if text.strip() else self.line(address)


@lru_cache(maxsize=64)
def source_lines(file: str) -> tuple[str, ...]:
    """The lines of a source file; none if it is not there or is no text."""
    try:
        path = Path(file)
        if not path.is_file() or path.stat().st_size > _MAX_SOURCE:
            return ()
        return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return ()


def source_line(file: str, number: int) -> str:
    """One line of a source file, from 1; empty if it is not there."""
    lines = source_lines(file)
    return lines[number - 1] if 0 < number <= len(lines) else ""


def instructions(read: Read, address: int, count: int, bits: int) -> list[Instruction]:
    """Up to ``count`` instructions from ``address`` on; fewer where memory ends."""
    found: list[Instruction] = []
    while len(found) < count:
        at = found[-1].address + found[-1].size if found else address
        wanted = min(count - len(found), 64)
        data = read(at & _M64, wanted * MAX_LENGTH)
        part = disassemble(data, at & _M64, bits, wanted)
        if not part:
            break
        found += part
    return found


def annotate(instruction: Instruction, symbol: Callable[[int], str]) -> str:
    """The instruction with the names of what it reaches."""
    text = instruction.text
    if _TARGET.match(instruction.mnemonic) and instruction.operands.startswith("0x"):
        called = symbol(int(instruction.operands, 16))
        return f"{text} <{called}>" if called else text
    match = _RIP.search(instruction.operands)
    if match is not None:
        offset = int(match[2], 0) if match[2] else 0
        target = instruction.address + instruction.size + (-offset if match[1] == "-" else offset)
        called = symbol(target & _M64)
        return f"{text}  # {target & _M64:#x}" + (f" <{called}>" if called else "")
    return text


def listing(
    read: Read, address: int, count: int, bits: int, names: Names, *, pc: int | None = None
) -> tuple[str, int]:
    """``count`` instructions from ``address`` on as lines, and the address behind them.

    ``pc``: the instruction that gets an arrow.
    """
    rows = []
    found = instructions(read, address, min(count, MAX_INSTRUCTIONS), bits)
    for item in found:
        arrow = "=>" if item.address == pc else "  "
        called = names.symbol(item.address)
        head = f"{arrow} {item.address:#x}" + (f" <{called}>" if called else "") + ":"
        rows.append((head, annotate(item, names.symbol), names.line(item.address)))
    left = max((len(row[0]) for row in rows), default=0)
    middle = max((len(row[1]) for row in rows), default=0)
    lines = [f"{a:<{left}}  {b:<{middle}}  {c}".rstrip() for a, b, c in rows]
    end = found[-1].address + found[-1].size if found else address
    if len(found) < min(count, MAX_INSTRUCTIONS):
        lines.append(unreadable(end))
    return "\n".join(lines), end & _M64
