"""XenStore's messages, and the page by which a domain and the store exchange them.

A message is a header (type, request, transaction, length) and up to 4096 bytes. Each direction is
a ring of 1024 bytes, so that a message may come and go in pieces: ``Incoming`` puts them together.

How it fails: ``BrokenPeer`` says that the guest broke the protocol in a way after which nothing
that it sends could be understood; the connection is then given up with that error in its page.

Source: io/xs_wire.h, docs/misc/xenstore-ring.txt.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from hypervisor.abi import (
    XENSTORE_PAYLOAD_MAX,
    XENSTORE_RING_SIZE,
    XenstoreDomainInterface,
    offset_of,
)
from hypervisor.bytering import ByteRing

HEADER: Final = struct.Struct("<IIII")
FEATURE_RECONNECTION: Final = 1
FEATURE_ERROR: Final = 2
RECONNECT: Final = 1
_WORD: Final = struct.Struct("<I")
_AT: Final = {
    name: offset_of(XenstoreDomainInterface, name)
    for name in ("server_features", "connection", "error")
}


class RingError(IntEnum):
    """Why a connection was given up (XENSTORE_ERROR_*)."""

    NONE = 0
    COMM = 1
    RINGIDX = 2
    PROTO = 3


class BrokenPeer(Exception):
    """The guest broke the protocol."""

    def __init__(self, error: RingError) -> None:
        super().__init__(error.name)
        self.error = error


class Message(NamedTuple):
    """One message. ``type`` is an ``abi.XenStore``, or any number a guest sent."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """As it goes through the ring."""
        return HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class StorePage:
    """A domain's XenStore page."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        field = XenstoreDomainInterface
        self.requests = ByteRing(
            page,
            data=offset_of(field, "req"),
            size=XENSTORE_RING_SIZE,
            cons=offset_of(field, "req_cons"),
            prod=offset_of(field, "req_prod"),
        )
        self.replies = ByteRing(
            page,
            data=offset_of(field, "rsp"),
            size=XENSTORE_RING_SIZE,
            cons=offset_of(field, "rsp_cons"),
            prod=offset_of(field, "rsp_prod"),
        )

    def _set(self, name: str, value: int) -> None:
        _WORD.pack_into(self._page, _AT[name], value)

    def open(self) -> None:
        """Say what the store can do, and that it is there."""
        self._set("server_features", FEATURE_RECONNECTION | FEATURE_ERROR)
        self._set("connection", 0)
        self._set("error", RingError.NONE)

    def give_up(self, error: RingError) -> None:
        """Say why there will be no more answers."""
        self._set("error", error)

    @property
    def wants_reconnection(self) -> bool:
        """True if the guest asks to begin anew."""
        return bool(_WORD.unpack_from(self._page, _AT["connection"])[0] == RECONNECT)

    def reconnect(self) -> None:
        """Empty both rings and say that it is done."""
        self.requests.reset()
        self.replies.reset()
        self.open()


class Incoming:
    """Puts a guest's messages together from what its ring holds."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def wanted(self) -> int:
        """Bytes that are missing to the end of the header or of the message.

        Raises:
            BrokenPeer: the message would be too long.
        """
        have = len(self._data)
        if have < HEADER.size:
            return HEADER.size - have
        length = HEADER.unpack_from(self._data)[3]
        if length > XENSTORE_PAYLOAD_MAX:
            raise BrokenPeer(RingError.PROTO)
        return HEADER.size + int(length) - have

    def feed(self, data: bytes) -> Message | None:
        """Take no more than ``wanted`` bytes; the message, once it is complete.

        Raises:
            BrokenPeer: as ``wanted``.
        """
        self._data += data
        if len(self._data) < HEADER.size or self.wanted:
            return None
        kind, req_id, tx_id, _ = HEADER.unpack_from(self._data)
        message = Message(kind, req_id, tx_id, self._data[HEADER.size :])
        self._data = b""
        return message


def one_string(payload: bytes) -> str | None:
    """The payload as one string with a NUL at its very end, None if it is no such thing."""
    if not payload or payload.find(0) != len(payload) - 1:
        return None
    return payload[:-1].decode("latin-1")


def leading_strings(payload: bytes, count: int) -> list[bytes] | None:
    """The first ``count`` strings, each ended by a NUL, None if there are fewer."""
    parts = payload.split(b"\0", count)
    return parts[:count] if len(parts) > count else None
