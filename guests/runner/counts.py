"""Numbers of instructions as people write them. On its own because every command reads one."""

import re
from typing import Final

MAX_LIMIT: Final = 100_000_000_000
_COUNT: Final = re.compile(r"(\d[\d_]{0,18})\s*([KMG]?)", re.IGNORECASE)


def count(text: str) -> int:
    """A number of instructions: ``5M``, ``100_000``. Raises ValueError."""
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of instructions, as 5M or 100_000 are")
    number = int(match[1]) * {"": 1, "K": 1000, "M": 10**6, "G": 10**9}[match[2].upper()]
    if not 1 <= number <= MAX_LIMIT:
        raise ValueError(f"{text!r} is not between 1 and {MAX_LIMIT:,}")
    return number
