"""What stands in packets, parsed: numbers, thread ids, resume actions.

Everything here is a claim of the client's. What does not parse raises ``PacketError``, which the
session answers with an error reply; it never gets as far as the target.

Source: the gdb manual, appendix "Remote Protocol", sections Packets and thread-id syntax.
"""

from dataclasses import dataclass
from typing import Final

EPERM: Final = 1
ESRCH: Final = 3
EFAULT: Final = 14
EBUSY: Final = 16
EINVAL: Final = 22
ENOSYS: Final = 38
"""Numbers of error replies, as in Linux."""

_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_MAX_DIGITS: Final = 16
ALL: Final = -1
ANY: Final = 0


class PacketError(Exception):
    """A packet that cannot be done: ``code`` is what the reply says, ``str()`` why."""

    def __init__(self, why: str, code: int = EINVAL) -> None:
        super().__init__(why)
        self.code = code


def number(text: bytes, what: str = "number") -> int:
    """A hexadecimal number of at most 64 bits, without sign or prefix."""
    if not text or len(text) > _MAX_DIGITS or not _HEX.issuperset(text):
        raise PacketError(f"{what} {text[:40]!r} is not a hexadecimal number")
    return int(text, 16)


def two_numbers(text: bytes) -> tuple[int, int]:
    """``address,length`` and the like."""
    first, comma, second = text.partition(b",")
    if not comma:
        raise PacketError(f"{text[:40]!r} is not two numbers")
    return number(first, "address"), number(second, "length")


def hex_bytes(text: bytes) -> bytes:
    """Bytes as pairs of hex digits."""
    if len(text) % 2 or not _HEX.issuperset(text):
        raise PacketError(f"{text[:40]!r} is not pairs of hex digits")
    return bytes.fromhex(text.decode("ascii"))


@dataclass(frozen=True, slots=True)
class ThreadArg:
    """A thread id as written: either part may be ``ALL`` or ``ANY``; no process: ``None``."""

    process: int | None
    thread: int


def thread_id(text: bytes) -> ThreadArg:
    """``p1.2``, ``p1``, ``p1.-1``, ``-1``, ``0`` or ``2``."""
    if not text.startswith(b"p"):
        return ThreadArg(None, _part(text))
    process, dot, thread = text[1:].partition(b".")
    if not dot:
        return ThreadArg(_part(process), ALL)
    return ThreadArg(_part(process), _part(thread))


def _part(text: bytes) -> int:
    return ALL if text == b"-1" else number(text, "thread id")


@dataclass(frozen=True, slots=True)
class Action:
    """One action of ``vCont``: ``kind`` is ``c``, ``s`` or ``r``; ``target`` None: all the rest."""

    kind: str
    target: ThreadArg | None
    range: tuple[int, int] | None = None


def actions(text: bytes) -> list[Action]:
    """What follows ``vCont;``; signals to deliver are read and dropped, guests have none."""
    found = []
    for part in text.split(b";"):
        what, colon, who = part.partition(b":")
        target = thread_id(who) if colon else None
        kind = what[:1].decode("latin-1")
        if kind in ("c", "s") and len(what) == 1:
            found.append(Action(kind, target))
        elif kind in ("C", "S"):
            number(what[1:], "signal")
            found.append(Action(kind.lower(), target))
        elif kind == "r":
            found.append(Action("r", target, two_numbers(what[1:])))
        else:
            raise PacketError(f"vCont action {what[:40]!r}")
    return found
