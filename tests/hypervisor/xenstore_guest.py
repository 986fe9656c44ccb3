"""A guest's end of XenStore, and of the console, without a guest: rings driven from outside.

``StoreGuest`` stands in a domain's shoes: it puts bytes into the ring in its store page, sends the
event by the hypercall, and takes what comes back.
"""

import struct

from emu.units import PAGE_SHIFT
from hypervisor.abi import (
    EvtchnOp,
    EvtchnSend,
    Hypercall,
    Record,
    StartInfo,
    XenconsInterface,
    XenStore,
    XenstoreDomainInterface,
    offset_of,
    read,
    to_bytes,
)
from hypervisor.builder import plan
from tests.hypervisor.kernels import SPIN, Caller, Lab, kernel

HEADER = struct.Struct("<IIII")
MEMORY = 1 << 20
Reply = tuple[int, int, int, bytes]


class Page:
    """Words and bytes of a page that the guest shares, by the names of its structure."""

    def __init__(self, page: memoryview, layout: type[Record]) -> None:
        self.page = page
        self.layout = layout

    def __getitem__(self, name: str) -> int:
        return int(struct.unpack_from("<I", self.page, offset_of(self.layout, name))[0])

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("<I", self.page, offset_of(self.layout, name), value & 0xFFFF_FFFF)

    def take(self, data: str, cons: str, prod: str, size: int) -> bytes:
        """All that the other end produced."""
        start = offset_of(self.layout, data)
        first, end = self[cons], self[prod]
        count = (end - first) & 0xFFFF_FFFF
        assert count <= size
        taken = bytes(self.page[start + (first + i) % size] for i in range(count))
        self[cons] = end
        return taken

    def put(self, text: bytes, data: str, cons: str, prod: str, size: int) -> int:
        """As much of ``text`` as there is room for."""
        start = offset_of(self.layout, data)
        at = self[prod]
        room = size - ((at - self[cons]) & 0xFFFF_FFFF)
        for i, byte in enumerate(text[:room]):
            self.page[start + (at + i) % size] = byte
        self[prod] = at + min(room, len(text))
        return min(room, len(text))


class Guest(Caller):
    """A domain with the pages and ports that its start_info names."""

    def __init__(self, lab: Lab | None = None) -> None:
        super().__init__(lab or Lab(), memory=MEMORY)
        where = plan(kernel(SPIN), MEMORY)
        at = self.image.virt_base + (where.start_info << PAGE_SHIFT)
        self.hv.switch_to(self.domain)
        raw = self.hv.guest.read(self.domain, at, 4096)
        self.info = read(StartInfo, raw)
        memory = self.hv.machine.memory
        self.store_mfn, self.console_mfn = self.info.store_mfn, self.info.console.domU.mfn
        self.store = Page(memory.frame(self.store_mfn), XenstoreDomainInterface)
        self.console = Page(memory.frame(self.console_mfn), XenconsInterface)

    def send(self, port: int) -> int | None:
        at = self.put(to_bytes(EvtchnSend(port=port)))
        return self.call(Hypercall.event_channel_op, EvtchnOp.send, at)

    def pending(self, port: int) -> bool:
        return self.hv.events.pending(self.domain, port)


class StoreGuest(Guest):
    """Requests and replies."""

    def __init__(self, lab: Lab | None = None) -> None:
        super().__init__(lab)
        self._got = b""
        self.events: list[bytes] = []

    def kick(self) -> None:
        assert self.send(self.info.store_evtchn) == 0

    def push(self, data: bytes) -> bytes:
        """Put ``data`` into the ring, with events, as long as it moves; what did not fit."""
        while data:
            count = self.store.put(data, "req", "req_cons", "req_prod", 1024)
            if count == 0:
                break
            data = data[count:]
            self.kick()
        return data

    def collect(self) -> list[Reply]:
        """All messages that are there."""
        while True:
            data = self.store.take("rsp", "rsp_cons", "rsp_prod", 1024)
            if not data:
                break
            self._got += data
            self.kick()
        found = []
        while len(self._got) >= HEADER.size:
            kind, req, tx, length = HEADER.unpack_from(self._got)
            if len(self._got) < HEADER.size + length:
                break
            found.append((kind, req, tx, self._got[HEADER.size : HEADER.size + length]))
            self._got = self._got[HEADER.size + length :]
        return found

    def ask(self, kind: int, payload: bytes = b"", tx: int = 0, req: int = 7) -> Reply:
        """One request and its reply; events that come with it are kept in ``events``."""
        assert self.push(HEADER.pack(kind, req, tx, len(payload)) + payload) == b""
        replies = [m for m in self.collect() if not self._event(m)]
        assert len(replies) == 1
        return replies[0]

    def _event(self, message: Reply) -> bool:
        if message[0] == XenStore.WATCH_EVENT:
            self.events = [*self.events, message[3]]
            return True
        return False

    def take_store_events(self) -> list[bytes]:
        """Watch events since the last time."""
        for message in self.collect():
            assert self._event(message)
        events, self.events = self.events, []
        return events

    # -- requests that are expected to succeed, or whose error is the answer ----------------

    def request(self, kind: XenStore, *strings: str, tx: int = 0, raw: bytes = b"") -> bytes | str:
        """The payload of the reply, or the error's name."""
        payload = b"".join(s.encode() + b"\0" for s in strings) + raw
        answered, req, answered_tx, data = self.ask(kind, payload, tx)
        assert (req, answered_tx) == (7, tx)
        if answered == XenStore.ERROR:
            assert data.endswith(b"\0")
            return data[:-1].decode()
        assert answered == kind
        return data

    def read(self, path: str, tx: int = 0) -> bytes | str:
        return self.request(XenStore.READ, path, tx=tx)

    def write(self, path: str, value: bytes, tx: int = 0) -> bytes | str:
        return self.request(XenStore.WRITE, path, raw=value, tx=tx)

    def start(self) -> int:
        answer = self.request(XenStore.TRANSACTION_START, "")
        assert isinstance(answer, bytes)
        return int(answer[:-1])

    def end(self, tx: int, commit: bool = True) -> bytes | str:
        return self.request(XenStore.TRANSACTION_END, "T" if commit else "F", tx=tx)
