"""Names for a guest's addresses, for reports that a person reads.

Source: the image's symbol table (``KernelImage.symbols``). Sorted when first asked: most domains
never are.
"""

from bisect import bisect_right
from collections.abc import Mapping

from emu.units import VA

MAX_OFFSET = 1 << 20
"""Bytes behind a symbol beyond which an address is not called by its name."""


class Symbols:
    """Nearest symbol at or below an address."""

    def __init__(self, symbols: Mapping[str, VA] | None = None) -> None:
        self._symbols = symbols or {}
        self._sorted: list[tuple[int, str]] | None = None

    def name(self, address: int) -> str:
        """``main+0x1c`` and the like; empty if no symbol is near."""
        if self._sorted is None:
            # Of several names for one address the last in order wins: the same in every run.
            self._sorted = sorted((int(at), name) for name, at in self._symbols.items())
        place = bisect_right(self._sorted, (address, "\U0010ffff")) - 1
        if place < 0:
            return ""
        at, name = self._sorted[place]
        offset = address - at
        if offset > MAX_OFFSET:
            return ""
        return f"{name}+{offset:#x}" if offset else name
