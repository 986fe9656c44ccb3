"""Framing of gdb's remote protocol: bytes of a connection to packets and back.

A packet is ``$`` body ``#`` and two hex digits, the sum of the body's bytes modulo 256. Between
packets stand ``+`` and ``-`` (acknowledgements, until they are switched off) and the byte 0x03
(Ctrl-C). In a body ``}`` escapes the next byte, which is XORed with 0x20.

Source: the gdb manual, appendix "Remote Protocol", section Overview.

Nothing that arrives is trusted: a body that is too long is thrown away as it comes, a ``$`` inside
a packet starts it anew (the one before was cut short), a wrong sum or a dangling escape makes the
packet bad. A ``Parser`` never raises, and keeps at most ``limit`` bytes.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_BODY: Final = 0x8000
"""Bytes of a body that we take; what the server says as ``PacketSize``."""

_DOLLAR: Final = ord("$")
_HASH: Final = ord("#")
_ESCAPE: Final = ord("}")
_PLUS: Final = ord("+")
_MINUS: Final = ord("-")
_CTRL_C: Final = 3
_SPECIAL: Final = frozenset(b"$#}*")
_ESCAPED: Final = re.compile(rb"\}(.?)", re.DOTALL)


class Kind(Enum):
    """What came in."""

    PACKET = "a packet"
    ACK = "+"
    NACK = "-"
    INTERRUPT = "Ctrl-C"
    BAD = "something that is no packet"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that came in: ``body`` of a packet, unescaped, or ``why`` it is bad."""

    kind: Kind
    body: bytes = b""
    why: str = ""


_ACK: Final = Item(Kind.ACK)
_NACK: Final = Item(Kind.NACK)
_INTERRUPT: Final = Item(Kind.INTERRUPT)


class Parser:
    """Takes bytes as they come and gives back what is complete."""

    def __init__(self, limit: int = MAX_BODY) -> None:
        self._limit = limit
        self._body: bytearray | None = None
        """Of the packet in hand, still escaped; None between packets."""
        self._sum: bytearray | None = None
        """Digits of the sum, once the body is complete."""
        self._too_long = False

    @property
    def held(self) -> int:
        """Bytes kept of a packet that is not complete."""
        return len(self._body or b"") + len(self._sum or b"")

    def feed(self, data: bytes) -> list[Item]:
        """What ``data`` completes, in order."""
        found: list[Item] = []
        at, end = 0, len(data)
        while at < end:
            if self._body is None:
                at = self._between(data, at, found)
            elif self._sum is None:
                at = self._inside(data, at, found)
            else:
                self._sum.append(data[at])
                at += 1
                if len(self._sum) == 2:
                    found.append(self._complete(bytes(self._body), bytes(self._sum)))
                    self._body = self._sum = None
        return found

    def _between(self, data: bytes, at: int, found: list[Item]) -> int:
        byte = data[at]
        if byte == _DOLLAR:
            self._body, self._too_long = bytearray(), False
        elif byte == _PLUS:
            found.append(_ACK)
        elif byte == _MINUS:
            found.append(_NACK)
        elif byte == _CTRL_C:
            found.append(_INTERRUPT)
        return at + 1  # anything else is noise on the line

    def _inside(self, data: bytes, at: int, found: list[Item]) -> int:
        ends = [place for place in (data.find(b"#", at), data.find(b"$", at)) if place >= 0]
        stop = min(ends, default=len(data))
        if self._body is None:
            return stop
        part = data[at:stop]
        if len(self._body) + len(part) > self._limit:
            self._too_long = True
            self._body.clear()
        elif not self._too_long:
            self._body += part
        if stop == len(data):
            return stop
        if data[stop] == _HASH:
            self._sum = bytearray()
        else:
            found.append(Item(Kind.BAD, why="a packet was cut short by the next one"))
            self._body, self._too_long = bytearray(), False
        return stop + 1

    def _complete(self, raw: bytes, digits: bytes) -> Item:
        if self._too_long:
            return Item(Kind.BAD, why=f"a packet of more than {self._limit} bytes")
        try:
            claimed = int(digits.decode("ascii"), 16) if digits.isalnum() else -1
        except ValueError:
            claimed = -1
        if claimed != checksum(raw):
            return Item(Kind.BAD, why=f"sum {digits!r} instead of {checksum(raw):02x}")
        body = unescape(raw)
        if body is None:
            return Item(Kind.BAD, why="an escape at the end of a packet")
        return Item(Kind.PACKET, body)


def checksum(raw: bytes) -> int:
    """Sum of the escaped body's bytes modulo 256."""
    return sum(raw) & 0xFF


def unescape(raw: bytes) -> bytes | None:
    """The body that was sent; None if it ends in the middle of an escape."""
    if _ESCAPE not in raw:
        return raw
    whole = True

    def meant(found: re.Match[bytes]) -> bytes:
        nonlocal whole
        if not found[1]:
            whole = False
            return b""
        return bytes((found[1][0] ^ 0x20,))

    body = _ESCAPED.sub(meant, raw)
    return body if whole else None


def escape(data: bytes) -> bytes:
    """Binary data as it may stand in a reply (``qXfer``, ``vFile``)."""
    if not any(byte in _SPECIAL for byte in data):
        return data
    out = bytearray()
    for byte in data:
        if byte in _SPECIAL:
            out += bytes((_ESCAPE, byte ^ 0x20))
        else:
            out.append(byte)
    return bytes(out)


def frame(body: bytes) -> bytes:
    """The packet with this body, which is escaped where it has to be."""
    return b"$%s#%02x" % (body, checksum(body))
