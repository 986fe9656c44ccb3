"""The server: listens, takes one client at a time, and watches it while the target runs.

While the target runs, the connection is watched from a second thread: Ctrl-C interrupts the
target, and so does a client that hangs up; whoever connects meanwhile is turned away. The target
itself is only ever touched from the thread that called ``serve``.

A client that vanishes leaves everything stopped where it is, without its breakpoints, for the next
one; a client that detaches, or none with a target that was not to wait for one, lets it run. The
server ends when the client kills, when nothing is left to debug, or when ``stop`` is called.
"""

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from emu.gdb.address import Address, forget, listen
from emu.gdb.packets import Item, Kind, Parser, frame
from emu.gdb.session import Ending, Session
from emu.gdb.target import Cause, Resume, Target, TargetError

log: Final = logging.getLogger("rsp")

_MAX_WAITING: Final = 64
"""Packets that a client may send ahead while the target runs."""
_AGAIN: Final = 0.05
"""Seconds between two calls of ``interrupt`` for one Ctrl-C: the first may come too early."""
_SEND_TIMEOUT: Final = 30.0
"""Seconds after which a client that does not read is taken to be gone."""


class _Gone(Exception):
    """The client hung up, or the server is to stop."""


class Connection:
    """One client, and who else knocks meanwhile."""

    def __init__(self, server: "GdbServer", client: socket.socket) -> None:
        self._server = server
        self._client = client
        self._parser = Parser()
        self._waiting: deque[Item] = deque()
        self._acks = True
        self._acks_end = False
        self._sent = b""
        self.gone = False
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- the session's side ----------------------------------------------------------------

    def send(self, body: bytes) -> None:
        """Send a packet; a client that is gone is noticed when it is next read."""
        log.debug("-> %s", body[:200])
        self._sent = frame(body)
        self._write(self._sent)
        if self._acks_end:
            self._acks = self._acks_end = False

    def stop_acknowledging(self) -> None:
        """After the reply that is sent next."""
        self._acks_end = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for Ctrl-C and for hanging up, from another thread."""
        # Ctrl-C may have come together with the packet that is being answered.
        early = any(item.kind is Kind.INTERRUPT for item in self._waiting)
        with self._server.watching(self._client.fileno(), self._came, asked=early):
            yield

    # -- packets ---------------------------------------------------------------------------

    def receive(self) -> bytes:
        """The next packet's body.

        Raises:
            _Gone: there is none.
        """
        while True:
            while self._waiting:
                item = self._waiting.popleft()
                body = self._take(item)
                if body is not None:
                    return body
            if self.gone or self._server.stopping:
                raise _Gone
            for ready in self._server.wait(self._client.fileno()):
                if ready == self._client.fileno():
                    self._came()

    def _take(self, item: Item) -> bytes | None:
        if item.kind is Kind.PACKET:
            if self._acks:
                self._write(b"+")
            log.debug("<- %s", item.body[:200])
            return item.body
        if item.kind is Kind.BAD:
            log.info("bad packet: %s", item.why)
            if self._acks:
                self._write(b"-")
            else:
                self.send(b"E16")
        elif item.kind is Kind.NACK and self._acks:
            self._write(self._sent)
        return None  # Ctrl-C while everything is stopped changes nothing

    def _came(self) -> bool:
        """Read what has come; True if the target is to be interrupted."""
        try:
            data = self._client.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.gone = True
            return True
        items = self._parser.feed(data)
        self._waiting += (item for item in items if item.kind is not Kind.ACK)
        if len(self._waiting) > _MAX_WAITING and not self._server.quiet:
            log.info("a client that floods is dropped")
            self.gone = True
            return True
        return any(item.kind is Kind.INTERRUPT for item in items)

    def _write(self, data: bytes) -> None:
        if self.gone:
            return
        try:
            self._client.settimeout(_SEND_TIMEOUT)
            self._client.sendall(data)
        except OSError:
            self.gone = True
        finally:
            with suppress(OSError):
                self._client.settimeout(None)


class GdbServer:
    """A server for ``target`` at ``address``.

    ``frozen``: the target waits for a client before it runs (QEMU's ``-S``). ``announce`` is called
    once with the address, the port that was chosen included, when clients can connect.

    Raises:
        AddressError: the address cannot be had (from ``serve``).
    """

    def __init__(
        self,
        target: Target,
        address: Address,
        *,
        frozen: bool = True,
        announce: Callable[[Address], None] | None = None,
    ) -> None:
        self._target = target
        self._address = address
        self._frozen = frozen
        self._announce = announce or (lambda _: None)
        self._listener: socket.socket | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._busy = False
        self.stopping = False
        self.quiet = True
        """Nothing runs: what a client sends ahead is read no faster than it is answered."""

    def stop(self) -> None:
        """Have ``serve`` return soon; may be called from a signal handler or another thread."""
        self.stopping = True
        with suppress(OSError):
            self._wake_in.send(b"x")
        self._target.interrupt()

    def serve(self) -> None:
        """Serve clients, one after another, until there is nothing left to serve.

        Raises:
            AddressError: the address cannot be had.
        """
        self._listener, address = listen(self._address)
        running = not self._frozen
        try:
            self._announce(address)
            while not self.stopping:
                if running:
                    running = self._run_free()
                client = self._accept()
                if client is None:
                    break
                with client:
                    ending = self._attend(client)
                if ending is Ending.KILLED or not self._target.threads():
                    break
                running = ending is Ending.DETACHED
        finally:
            listener, self._listener = self._listener, None
            listener.close()
            forget(address)
            self._wake_in.close()
            self._wake_out.close()

    # -- clients ---------------------------------------------------------------------------

    def _accept(self) -> socket.socket | None:
        """The next client; None if the server is to stop or nothing is left to debug."""
        while not self.stopping and self._listener is not None and self._target.threads():
            ready, _, _ = select.select([self._listener, self._wake_out], [], [])
            if self._listener in ready:
                try:
                    return self._listener.accept()[0]
                except OSError:
                    continue  # it changed its mind
        return None

    def _attend(self, client: socket.socket) -> Ending | None:
        """One client from beginning to end; None if it hung up."""
        self._busy = True
        connection = Connection(self, client)
        session = Session(self._target, connection)
        try:
            while session.ending is None:
                session.handle(connection.receive())
        except _Gone:
            log.info("the client has gone")
            if session.let_all_go():
                return Ending.DETACHED
        finally:
            self._busy = False
            session.close()
        if session.ending is Ending.KILLED:
            for item in self._target.threads():
                with suppress(TargetError):
                    self._target.kill(item.id.process)
        return session.ending

    def _run_free(self) -> bool:
        """Run without a client until one knocks; True if it is to go on so after that."""
        while not self.stopping and self._target.threads():
            with self.watching(None, lambda: False):
                report = self._target.resume(Resume())
            if report.cause not in (Cause.EXITED, Cause.KILLED):
                break
        return False

    # -- waiting ---------------------------------------------------------------------------

    def wait(self, *others: int) -> list[int]:
        """Descriptors with something to read: ``others``, and the server's own.

        While there is a client, whoever else connects is turned away here.
        """
        watched = [self._wake_out.fileno(), *others]
        listener = self._listener
        if listener is not None:
            watched.append(listener.fileno())
        ready, _, _ = select.select(watched, [], [])
        if listener is not None and listener.fileno() in ready and self._busy:
            ready.remove(listener.fileno())
            # Maybe the client has just hung up, and this is the next one: look at it first.
            if others and select.select(others, [], [], 0)[0]:
                return ready
            with suppress(OSError):
                listener.accept()[0].close()
                log.info("a second client was turned away")
        return ready

    @contextmanager
    def watching(
        self, client: int | None, came: Callable[[], bool], *, asked: bool = False
    ) -> Iterator[None]:
        """While inside, interrupt the target for the client, for a new one, and for ``stop``.

        ``came`` reads from the client and says whether to interrupt; ``asked``: do so at once.
        """
        done = threading.Event()
        ending, end = socket.socketpair()

        def watch() -> None:
            nonlocal asked
            asked = asked or self.stopping
            while not done.is_set():
                if asked:
                    # Nothing more is read until the target has stopped.
                    self._target.interrupt()
                    select.select([ending], [], [], _AGAIN)
                    continue
                try:
                    ready = self.wait(ending.fileno(), *(() if client is None else (client,)))
                except (OSError, ValueError):
                    if done.is_set() or self._listener is None:
                        return  # a signal has ended the server while this thread began or ended
                    raise
                if client in ready:
                    asked = came()
                elif ending.fileno() not in ready:
                    asked = bool(ready)

        self.quiet = False
        thread = threading.Thread(target=watch, name="gdb watcher", daemon=True)
        try:
            thread.start()
            yield
        finally:
            done.set()
            end.send(b"x")
            if thread.ident is not None:
                thread.join()
            self.quiet = True
            ending.close()
            end.close()
