"""One domain's connection to the store: its requests, its watches, its transactions.

Requests are answered in the order in which they came, at once, while the guest stands still in its
``EVTCHNOP_send``. Replies and events wait in a queue until the guest makes room in its ring; as
long as it leaves too many replies unread its next requests are not looked at, and events beyond
its share of memory are dropped, both as in Xen. So what a domain can make the store keep is
bounded, and so is the work of one call: its ring holds 1024 bytes of requests.

How it fails: a request that is wrong gets an ERROR reply. A guest whose ring indices lie, or that
announces more than 4096 bytes, is not listened to any more until it asks to reconnect.

Source: docs/misc/xenstore.txt, docs/misc/xenstore-ring.txt; Xen 4.17's xenstored.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hypervisor.abi import XENSTORE_PAYLOAD_MAX, Errno, XenStore
from hypervisor.bytering import RingLies
from hypervisor.xenstore.node import StoreError, home_of, parse_perms
from hypervisor.xenstore.tree import Transaction
from hypervisor.xenstore.watches import SPECIAL, Watch, Watches
from hypervisor.xenstore.wire import (
    BrokenPeer,
    Incoming,
    Message,
    RingError,
    StorePage,
    leading_strings,
    one_string,
)

if TYPE_CHECKING:
    from hypervisor.xenstore.server import XenStore as Server

_OK: Final = b"OK\0"
_M32: Final = 0xFFFF_FFFF
_TOOLSTACK_ONLY: Final = frozenset(
    (
        XenStore.CONTROL,
        XenStore.INTRODUCE,
        XenStore.RELEASE,
        XenStore.RESUME,
        XenStore.SET_TARGET,
        XenStore.IS_DOMAIN_INTRODUCED,
    )
)
_SPECIAL_NAMES: Final = ("@introduceDomain", "@releaseDomain")
_WORK_PER_MESSAGE: Final = 16
_OVERHEAD: Final = 128
"""Bytes that a message takes while it waits, beyond its own: what it costs this process."""


class Connection:
    """The store's end of a domain's ring. ``number`` is its place in the order of connections.

    ``notify`` raises the domain's store event; ``wrote`` is called after its page was changed.
    """

    def __init__(
        self,
        server: "Server",
        domid: int,
        number: int,
        page: StorePage,
        notify: Callable[[], None],
        wrote: Callable[[], None],
    ) -> None:
        self.domid = domid
        self.number = number
        self.home = home_of(domid)
        self.broken = RingError.NONE
        self.watches: dict[tuple[str, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self._server = server
        self._tree = server.tree
        self._page = page
        self._notify = notify
        self._wrote = wrote
        self._incoming = Incoming()
        self._queue: deque[tuple[bytes, bool]] = deque()
        """Messages that wait, and whether each is a reply (or an event)."""
        self._sent = 0
        """Bytes of the first of the queue that are in the ring already."""
        self._replies = 0
        self._events: set[bytes] = set()
        self._next_tx = 1
        self._first_events: list[tuple[str, Watch]] = []
        """The event that a new watch begins with, which goes behind the reply."""
        page.open()

    # -- the ring --------------------------------------------------------------------------

    def serve(self) -> None:
        """Take requests, answer, and send what waits, as far as it goes."""
        page = self._page
        changed = False
        if page.wants_reconnection:
            self.reset()
            self._incoming = Incoming()
            self.broken = RingError.NONE
            page.reconnect()
            changed = True
        if not self.broken:
            try:
                while not self.broken and self._receive() | self._send():
                    changed = True
            except RingLies:
                self._give_up(RingError.RINGIDX)
                changed = True
            except BrokenPeer as broken:
                self._give_up(broken.error)
                changed = True
        if changed:
            self._wrote()
            self._notify()

    def push(self) -> None:
        """Send what waits, as far as it goes."""
        if self.broken:
            return
        changed = False
        try:
            while self._send():
                changed = True
        except RingLies:
            self._give_up(RingError.RINGIDX)
            changed = True
        if changed:
            self._wrote()
            self._notify()

    def _give_up(self, error: RingError) -> None:
        self.reset()
        self.broken = error
        self._page.give_up(error)

    def reset(self) -> None:
        """Forget watches, transactions and whatever waits."""
        self._forget_watches()
        for _, reply in self._queue:
            self._replies -= reply
        for data, _ in self._queue:
            self._tree.memory[self.domid] -= len(data) + _OVERHEAD
        self._queue.clear()
        self._events.clear()
        self._sent = 0

    def _receive(self) -> bool:
        """Take one piece of a request; True if there was something to take."""
        quotas, tree = self._tree.quotas, self._tree
        if self._replies >= quotas.outstanding or tree.memory[self.domid] >= quotas.memory:
            return False
        data = self._page.requests.take(self._incoming.wanted)
        message = self._incoming.feed(data) if data else None
        if message is not None:
            self._reply(message)
        return bool(data)

    def _send(self) -> bool:
        """Put what waits into the ring; True if something went."""
        if not self._queue:
            return False
        data, reply = self._queue[0]
        count = self._page.replies.put(data[self._sent :])
        self._sent += count
        if self._sent == len(data):
            self._queue.popleft()
            self._sent = 0
            self._replies -= reply
            self._events.discard(data)
            self._tree.memory[self.domid] -= len(data) + _OVERHEAD
        return count > 0

    def _enqueue(self, message: Message, reply: bool) -> None:
        data = message.to_bytes()
        self._tree.memory[self.domid] += len(data) + _OVERHEAD
        self._replies += reply
        self._queue.append((data, reply))

    def tell(self, path: str, watch: Watch) -> None:
        """A change for one of this domain's watches; dropped if it is known, or too much."""
        if watch.relative:
            path = path[len(self.home) :].removeprefix("/")
        payload = path.encode("latin-1") + b"\0" + watch.token + b"\0"
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            return
        message = Message(XenStore.WATCH_EVENT, 0, 0, payload)
        data = message.to_bytes()
        begun = self._sent > 0 and self._queue[0][0] == data
        if data in self._events and not begun:
            return
        if self._tree.memory[self.domid] + len(data) + _OVERHEAD > self._tree.quotas.memory:
            return
        self._events.add(data)
        self._enqueue(message, reply=False)
        self._server.wake(self)

    # -- requests --------------------------------------------------------------------------

    def _reply(self, request: Message) -> None:
        server = self._server
        before = self._tree.work
        self._first_events.clear()
        kind = request.type
        try:
            payload = self._answer(request)
            if len(payload) > XENSTORE_PAYLOAD_MAX:
                raise StoreError(Errno.E2BIG)
        except StoreError as error:
            kind, payload = XenStore.ERROR, error.errno.name.encode("ascii") + b"\0"
        self._enqueue(Message(kind, request.req_id, request.tx_id, payload), reply=True)
        server.report(self.domid, request, payload)
        for path, watch in self._first_events:
            self.tell(path, watch)
        server.spend(_WORK_PER_MESSAGE + self._tree.work - before)
        server.settle()

    def _answer(self, request: Message) -> bytes:
        """The payload of the reply.

        Raises:
            StoreError: the error to answer with.
        """
        if request.type in _TOOLSTACK_ONLY:
            raise StoreError(Errno.EACCES)
        handler = _HANDLERS.get(request.type)
        if handler is None:
            raise StoreError(Errno.ENOSYS)
        tx = None
        if request.tx_id and request.type not in (XenStore.WATCH, XenStore.UNWATCH):
            tx = self.transactions.get(request.tx_id)
            if tx is None:
                raise StoreError(Errno.ENOENT)
        return handler(self, tx, request)

    def _absolute(self, path: str) -> str:
        return path if path.startswith(("/", SPECIAL)) else f"{self.home}/{path}"

    def _one_path(self, request: Message) -> str:
        path = one_string(request.payload)
        if path is None:
            raise StoreError(Errno.EINVAL)
        return self._absolute(path)

    def _strings(self, request: Message, count: int) -> list[bytes]:
        strings = leading_strings(request.payload, count)
        if strings is None:
            raise StoreError(Errno.EINVAL)
        return strings

    def _read(self, tx: Transaction | None, request: Message) -> bytes:
        return self._tree.read(self.domid, tx, self._one_path(request)).value

    def _directory(self, tx: Transaction | None, request: Message) -> bytes:
        return self._tree.read(self.domid, tx, self._one_path(request)).listing

    def _directory_part(self, tx: Transaction | None, request: Message) -> bytes:
        if request.payload.count(0) != 2:
            raise StoreError(Errno.EINVAL)
        path, offset = self._strings(request, 2)
        node = self._tree.read(self.domid, tx, self._absolute(path.decode("latin-1")))
        listing = node.listing
        start = _number(offset)
        generation = b"%d\0" % node.generation
        if start >= len(listing):
            return generation + b"\0"
        room = XENSTORE_PAYLOAD_MAX - len(generation) - 1
        part = listing[start : start + room]
        if start + len(part) == len(listing):
            return generation + part + b"\0"
        return generation + part[: part.rfind(0) + 1]

    def _write(self, tx: Transaction | None, request: Message) -> bytes:
        (path,) = self._strings(request, 1)
        value = request.payload[len(path) + 1 :]
        self._tree.write(self.domid, tx, self._absolute(path.decode("latin-1")), value)
        return _OK

    def _mkdir(self, tx: Transaction | None, request: Message) -> bytes:
        self._tree.mkdir(self.domid, tx, self._one_path(request))
        return _OK

    def _remove(self, tx: Transaction | None, request: Message) -> bytes:
        self._tree.remove(self.domid, tx, self._one_path(request))
        return _OK

    def _get_perms(self, tx: Transaction | None, request: Message) -> bytes:
        node = self._tree.read(self.domid, tx, self._one_path(request))
        return "".join(f"{perm}\0" for perm in node.perms).encode("ascii")

    def _set_perms(self, tx: Transaction | None, request: Message) -> bytes:
        count = request.payload.count(0)
        if count < 2:
            raise StoreError(Errno.EINVAL)
        if count - 1 > self._tree.quotas.perms:
            raise StoreError(Errno.ENOSPC)
        texts = [text.decode("latin-1") for text in self._strings(request, count)]
        perms = parse_perms(texts[1:])
        if texts[0].startswith(SPECIAL):
            # Special names are the toolstack's.
            raise StoreError(Errno.EACCES if texts[0] in _SPECIAL_NAMES else Errno.EINVAL)
        self._tree.set_perms(self.domid, tx, self._absolute(texts[0]), perms)
        return _OK

    def _watch(self, _tx: Transaction | None, request: Message) -> bytes:
        raw, token = self._strings(request, 2)
        given = raw.decode("latin-1")
        path = self._absolute(given)
        Watches.check(path)
        if (path, token) in self.watches:
            raise StoreError(Errno.EEXIST)
        if len(self.watches) > self._tree.quotas.watches:
            raise StoreError(Errno.E2BIG)
        self._tree.charge(self.domid, len(path) + len(token))
        relative = not given.startswith(("/", SPECIAL))
        watch = self._server.watches.add(
            (self.domid, self.number), path, token, self.tell, relative
        )
        self.watches[path, token] = watch
        self._first_events.append((path, watch))
        return _OK

    def _unwatch(self, _tx: Transaction | None, request: Message) -> bytes:
        raw, token = self._strings(request, 2)
        watch = self.watches.pop((self._absolute(raw.decode("latin-1")), token), None)
        if watch is None:
            raise StoreError(Errno.ENOENT)
        self._drop_watch(watch)
        return _OK

    def _drop_watch(self, watch: Watch) -> None:
        self._server.watches.remove(watch)
        self._tree.charge(self.domid, -len(watch.path) - len(watch.token))

    def _forget_watches(self) -> None:
        for watch in self.watches.values():
            self._drop_watch(watch)
        self.watches.clear()
        for tx in self.transactions.values():
            self._tree.drop(tx)
        self.transactions.clear()

    def _reset_watches(self, _tx: Transaction | None, _request: Message) -> bytes:
        self._forget_watches()
        return _OK

    def _start(self, tx: Transaction | None, _request: Message) -> bytes:
        if tx is not None:
            raise StoreError(Errno.EBUSY)
        if len(self.transactions) > self._tree.quotas.transactions:
            raise StoreError(Errno.ENOSPC)
        while self._next_tx == 0 or self._next_tx in self.transactions:
            self._next_tx = (self._next_tx + 1) & _M32
        number = self._next_tx
        self._next_tx = (number + 1) & _M32
        self.transactions[number] = Transaction(self.domid)
        return b"%d\0" % number

    def _end(self, tx: Transaction | None, request: Message) -> bytes:
        how = one_string(request.payload)
        if how not in ("T", "F"):
            raise StoreError(Errno.EINVAL)
        if tx is None:
            raise StoreError(Errno.ENOENT)
        del self.transactions[request.tx_id]
        if how == "T":
            self._tree.commit(tx)
        else:
            self._tree.drop(tx)
        return _OK

    def _domain_path(self, _tx: Transaction | None, request: Message) -> bytes:
        domid = one_string(request.payload)
        if domid is None:
            raise StoreError(Errno.EINVAL)
        return home_of(_number(domid.encode("latin-1"))).encode("ascii") + b"\0"


def _number(text: bytes) -> int:
    """As C's ``atoi`` has it, without sign: the leading digits, 32 bits of them."""
    digits = text.lstrip(b" \t")[:10]
    end = 0
    while end < len(digits) and digits[end : end + 1].isdigit():
        end += 1
    return int(digits[:end] or b"0") & _M32


Handler = Callable[[Connection, Transaction | None, Message], bytes]

_HANDLERS: Final[dict[int, Handler]] = {
    XenStore.DIRECTORY: Connection._directory,
    XenStore.READ: Connection._read,
    XenStore.GET_PERMS: Connection._get_perms,
    XenStore.WATCH: Connection._watch,
    XenStore.UNWATCH: Connection._unwatch,
    XenStore.TRANSACTION_START: Connection._start,
    XenStore.TRANSACTION_END: Connection._end,
    XenStore.GET_DOMAIN_PATH: Connection._domain_path,
    XenStore.WRITE: Connection._write,
    XenStore.MKDIR: Connection._mkdir,
    XenStore.RM: Connection._remove,
    XenStore.SET_PERMS: Connection._set_perms,
    XenStore.RESET_WATCHES: Connection._reset_watches,
    XenStore.DIRECTORY_PART: Connection._directory_part,
}
