"""Names and source lines for a guest's addresses, for reports that a person reads.

Source: the image's symbol table (``KernelImage.symbols``) and its line information. Sorted and read
when first asked: most domains never are.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from emu.units import VA

if TYPE_CHECKING:
    from emu.asm import LineTable

MAX_OFFSET = 1 << 20
"""Bytes behind a symbol beyond which an address is not called by its name."""


class Symbols:
    """Nearest symbol at or below an address.

    ``elf``: the file, for its line information. ``constants``: symbols that are no addresses; they
    have values, but no address is called by them.
    """

    def __init__(
        self,
        symbols: Mapping[str, VA] | None = None,
        elf: bytes = b"",
        constants: Collection[str] = (),
    ) -> None:
        self._symbols = symbols or {}
        self._constants = constants
        self._sorted: list[tuple[int, str]] | None = None
        self.elf = elf

    @cached_property
    def lines(self) -> "LineTable":
        """Source lines of its instructions; empty if the file does not say."""
        # Loaded here: only debuggers ask, and starting is what most runs take longest for.
        from emu.debug.dwarf import read_lines

        return read_lines(self.elf)

    def address(self, name: str) -> VA | None:
        """The address of a symbol; None if there is none of that name."""
        return self._symbols.get(name)

    def names(self) -> list[str]:
        """All symbols, in order of the alphabet."""
        return sorted(self._symbols)

    def _place(self, address: int) -> tuple[list[tuple[int, str]], int]:
        """All symbols by address, and how many lie at or below ``address``."""
        if self._sorted is None:
            # Of several names for one address the last in order wins: the same in every run.
            self._sorted = sorted(
                (int(at), name) for name, at in self._symbols.items() if name not in self._constants
            )
        return self._sorted, bisect_right(self._sorted, (address, "\U0010ffff"))

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(symbol, offset in bytes) of the nearest one at or below ``address``."""
        found, place = self._place(address)
        if not place:
            return None
        at, name = found[place - 1]
        return None if address - at > MAX_OFFSET else (name, address - at)

    def following(self, address: int) -> int | None:
        """The address of the next symbol above ``address``; None if there is none."""
        found, place = self._place(address)
        return found[place][0] if place < len(found) else None

    def name(self, address: int) -> str:
        """``main+0x1c`` and the like; empty if no symbol is near."""
        found = self.nearest(address)
        if found is None:
            return ""
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name
