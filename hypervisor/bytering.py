"""One direction of a ring of bytes in a page that a guest shares: XenStore's and the console's.

A ring is a buffer of a power of two bytes and two indices that run freely modulo 2**32: what the
writer produced and what the reader consumed. Both lie in memory that the guest can store anything
into, so each call reads them once, and believes them only if they are at most the buffer apart.

How it fails: ``RingLies``, and nothing was changed. What follows from it is the protocol's matter.

Source: io/console.h, io/xs_wire.h, docs/misc/xenstore-ring.txt.
"""

import struct
from typing import Final

_INDEX: Final = struct.Struct("<I")
_M32: Final = 0xFFFF_FFFF


class RingLies(Exception):
    """The indices are further apart than the ring is long."""


class ByteRing:
    """``size`` bytes at ``data``, indices at ``cons`` and ``prod``: offsets in ``page``."""

    def __init__(self, page: memoryview, *, data: int, size: int, cons: int, prod: int) -> None:
        if size & (size - 1):
            raise ValueError(f"a ring of {size} bytes, which is no power of two")
        self._page = page
        self._data = data
        self._size = size
        self._cons = cons
        self._prod = prod

    def _indices(self) -> tuple[int, int, int]:
        """Consumer, producer, and how many bytes wait between them."""
        (cons,) = _INDEX.unpack_from(self._page, self._cons)
        (prod,) = _INDEX.unpack_from(self._page, self._prod)
        waiting = (prod - cons) & _M32
        if waiting > self._size:
            raise RingLies
        return cons, prod, waiting

    @property
    def waiting(self) -> int:
        """Bytes that were produced and not consumed.

        Raises:
            RingLies: the indices make no sense.
        """
        return self._indices()[2]

    @property
    def room(self) -> int:
        """Bytes that can be produced.

        Raises:
            RingLies: the indices make no sense.
        """
        return self._size - self.waiting

    def take(self, limit: int) -> bytes:
        """Consume up to ``limit`` bytes.

        Raises:
            RingLies: the indices make no sense.
        """
        cons, _, waiting = self._indices()
        count = min(waiting, limit)
        if count <= 0:
            return b""
        at = cons & (self._size - 1)
        first = min(count, self._size - at)
        start = self._data + at
        data = bytes(self._page[start : start + first])
        if first < count:
            data += bytes(self._page[self._data : self._data + count - first])
        _INDEX.pack_into(self._page, self._cons, (cons + count) & _M32)
        return data

    def put(self, data: bytes) -> int:
        """Produce as much of ``data`` as there is room for; returns how many bytes that was.

        Raises:
            RingLies: the indices make no sense.
        """
        _, prod, waiting = self._indices()
        count = min(len(data), self._size - waiting)
        if count <= 0:
            return 0
        at = prod & (self._size - 1)
        first = min(count, self._size - at)
        start = self._data + at
        self._page[start : start + first] = data[:first]
        self._page[self._data : self._data + count - first] = data[first:count]
        _INDEX.pack_into(self._page, self._prod, (prod + count) & _M32)
        return count

    def reset(self) -> None:
        """Empty the ring: both indices are 0."""
        _INDEX.pack_into(self._page, self._cons, 0)
        _INDEX.pack_into(self._page, self._prod, 0)
