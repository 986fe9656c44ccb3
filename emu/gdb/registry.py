"""The table of packets: which function answers which, and what we say that we can do.

Handlers are functions of a session and of what follows the packet's name; they register with
``packet``. The answer to ``qSupported`` is made from the same table, so that nothing is advertised
that nobody answers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emu.gdb.session import Session

Handler = Callable[["Session", bytes], bytes | None]
"""Answers with the reply's body; None if there is none, or if it was sent already."""

_NAME: Final = re.compile(rb"[A-Za-z.]+\??")


@dataclass(frozen=True, slots=True)
class Packet:
    """One kind of packet."""

    name: str
    handler: Handler
    feature: str
    """What ``qSupported`` says because this is there; several are separated by ``;``."""
    summary: str
    reverse: bool
    """Only where the target can go back."""


PACKETS: Final[dict[str, Packet]] = {}


def packet(name: str, *, feature: str = "", reverse: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler for packets that begin with ``name``."""

    def register(handler: Handler) -> Handler:
        if name in PACKETS:
            raise ValueError(f"two handlers of packet {name}")
        summary = (handler.__doc__ or "").strip().partition("\n")[0]
        PACKETS[name] = Packet(name, handler, feature, summary, reverse)
        return handler

    return register


def find(body: bytes) -> tuple[Packet, bytes] | None:
    """The kind of a packet and what follows its name; None if nobody answers it."""
    if body[:1] in (b"q", b"Q", b"v"):
        match = _NAME.match(body)
        name = match[0] if match else body[:1]
    elif body[:1] == b"b":
        name = body
    else:
        name = body[:1]
    found = PACKETS.get(name.decode("latin-1"))
    return None if found is None else (found, body[len(name) :])


def features(*, reversible: bool) -> list[str]:
    """What all registered handlers offer."""
    found: list[str] = []
    for kind in PACKETS.values():
        if kind.feature and (reversible or not kind.reverse):
            found += kind.feature.split(";")
    return found
