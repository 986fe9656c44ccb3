"""Disassembly with Capstone: Intel syntax, and never a gap.

Bytes that are no instruction come out one by one as ``(bad)``, so the instructions returned cover
the code up to its end or the wanted count.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from emu.units import VA

if TYPE_CHECKING:
    import capstone

BAD = "(bad)"
"""Mnemonic of a byte that begins no instruction."""

_MAX_LENGTH = 15


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction, or one undecodable byte with the mnemonic ``(bad)``."""

    address: VA
    bytes: bytes
    mnemonic: str
    operands: str

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.bytes)

    @property
    def text(self) -> str:
        """Mnemonic and operands."""
        return f"{self.mnemonic} {self.operands}" if self.operands else self.mnemonic

    @property
    def is_bad(self) -> bool:
        """True for a byte that begins no instruction."""
        return self.mnemonic == BAD

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.bytes.hex(' '):<30} {self.text}"


@cache
def _decoder(bits: int) -> "capstone.Cs":
    # Loaded here: most runs disassemble nothing, and starting is what they take longest for.
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    if bits not in modes:
        raise ValueError(f"no {bits}-bit code: 16, 32 or 64")
    return capstone.Cs(capstone.CS_ARCH_X86, modes[bits])


def disassemble(
    code: bytes, address: int, bits: int = 64, count: int | None = None
) -> list[Instruction]:
    """Decode ``code``, which lies at ``address``; at most ``count`` instructions if it is given.

    An instruction cut off by the end of ``code`` comes out as ``(bad)`` bytes. Raises ValueError
    for a width other than 16, 32 or 64 bits.
    """
    decoder = _decoder(bits)
    mask = (1 << 64) - 1
    found: list[Instruction] = []
    offset = 0
    while offset < len(code) and (count is None or len(found) < count):
        wanted = 0 if count is None else count - len(found)
        # A count bounds what has to be looked at, which matters for a window into a large memory.
        end = len(code) if count is None else offset + wanted * _MAX_LENGTH
        start = (address + offset) & mask
        for where, size, mnemonic, operands in decoder.disasm_lite(code[offset:end], start, wanted):
            raw = bytes(code[offset : offset + size])
            found.append(Instruction(VA(where), raw, mnemonic, operands))
            offset += size
        if offset < len(code) and (count is None or len(found) < count):
            bad = bytes(code[offset : offset + 1])
            found.append(Instruction(VA((address + offset) & mask), bad, BAD, f"{bad[0]:#04x}"))
            offset += 1
    return found
