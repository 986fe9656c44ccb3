"""A client for gdb's protocol: one that counts on nothing, for tests of sessions and servers."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from emu.gdb.packets import Kind, Parser, frame, unescape
from emu.gdb.session import Session
from emu.gdb.target import Target

FEATURES = b"multiprocess+;swbreak+;hwbreak+;exec-events+"
PATIENCE = 20.0
"""Seconds to wait for an answer: only a broken server takes that long."""


class Wire:
    """A ``Link`` that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.acknowledges = True

    def send(self, body: bytes) -> None:
        self.sent.append(body)

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield

    def stop_acknowledging(self) -> None:
        self.acknowledges = False


class Talk:
    """A session without a connection: ``talk("g")`` is the answer."""

    def __init__(self, target: Target, features: bytes = FEATURES) -> None:
        self.wire = Wire()
        self.session = Session(target, self.wire)
        self.console = ""
        if features:
            self("qSupported:" + features.decode())

    def __call__(self, body: str | bytes) -> str:
        """The last reply; console output goes to ``console``; no reply is ``(none)``."""
        raw = body.encode("latin-1") if isinstance(body, str) else body
        before = len(self.wire.sent)
        self.session.handle(raw)
        return self._last(self.wire.sent[before:])

    def _last(self, replies: list[bytes]) -> str:
        last = "(none)"
        for reply in replies:
            if reply[:1] == b"O" and reply != b"OK":
                self.console += bytes.fromhex(reply[1:].decode()).decode()
            else:
                last = reply.decode("latin-1")
        return last

    def document(self, name: str, size: int = 0x100000) -> bytes:
        """A whole ``qXfer`` document, read in parts."""
        whole = b""
        while True:
            self.session.handle(f"qXfer:{name}:{len(whole):x},{size:x}".encode())
            reply = self.wire.sent[-1]
            assert reply[:1] in (b"m", b"l"), reply
            whole += unescape(reply[1:]) or b""
            if reply[:1] == b"l":
                return whole


class Client:
    """A connection to a server."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self.parser = Parser(1 << 20)
        self.items: list[tuple[Kind, bytes]] = []

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, body: bytes) -> None:
        self.raw(frame(body))

    def next(self) -> tuple[Kind, bytes] | None:
        """What comes next; None at the end of the connection."""
        while not self.items:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""  # hung up on with something unread
            if not data:
                return None
            self.items += [(item.kind, item.body) for item in self.parser.feed(data)]
        return self.items.pop(0)

    def reply(self) -> bytes:
        """The next packet, acknowledged."""
        while True:
            item = self.next()
            assert item is not None, "the server hung up"
            if item[0] is Kind.PACKET:
                return item[1]

    def ask(self, body: bytes) -> bytes:
        self.send(body)
        return self.reply()

    def silent(self, seconds: float = 0.0) -> bool:
        """True if nothing is there to be read."""
        return not self.items and not select.select([self.socket], [], [], seconds)[0]

    def close(self) -> None:
        self.socket.close()


def hexed(text: str) -> str:
    """As gdb writes text."""
    return text.encode().hex()
