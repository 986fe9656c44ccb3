"""The server: connections that end, clash, flood, and interrupt; over sockets."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.gdb.address import Address, AddressError, listen, parse_address
from emu.gdb.packets import MAX_BODY, Kind, frame
from emu.gdb.server import GdbServer
from tests.emu.gdb_client import PATIENCE, Client
from tests.emu.gdb_fake import CODE, Process, Toy

FOREVER = b"..w..<"


class Running:
    """A server in a thread of its own."""

    def __init__(self, toy: Toy, address: Address, *, frozen: bool = True) -> None:
        self.toy = toy
        self.address = address
        self.ready = threading.Event()
        self.errors: list[BaseException] = []
        self.server = GdbServer(toy, address, frozen=frozen, announce=self._announce)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self.ready.wait(PATIENCE)

    def _announce(self, address: Address) -> None:
        self.address = address
        self.ready.set()

    def _serve(self) -> None:
        try:
            self.server.serve()
        except Exception as error:  # noqa: BLE001 - shown by the test that waits
            self.errors.append(error)

    def client(self) -> Client:
        if self.address.path:
            return Client(self.address.path)
        return Client((self.address.host, self.address.port))

    def ended(self) -> bool:
        self.thread.join(PATIENCE)
        assert self.errors == []
        return not self.thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def make(*programs: bytes, address: Address | None = None, frozen: bool = True) -> Running:
        toy = Toy(*(Process(program) for program in programs))
        running.append(Running(toy, address or Address(port=0), frozen=frozen))
        return running[-1]

    yield make
    for server in running:
        server.server.stop()
        assert server.ended()


# -- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1234", Address(port=1234)),
        (":1234", Address(port=1234)),
        ("tcp::1234", Address(port=1234)),
        ("tcp:localhost:0", Address(port=0)),
        ("tcp:127.0.0.9:5", Address("127.0.0.9", 5)),
        ("tcp:[::1]:5", Address("::1", 5)),
        ("tcp::1234,server=on,wait=off", Address(port=1234)),
        ("unix:/tmp/x", Address(path="/tmp/x")),
        ("unix:x,server", Address(path="x")),
    ],
)
def test_addresses_as_qemu_takes_them(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:", "tcp:localhost", "unix:", "tcp::99999", "tcp::-1", "stdio", "tcp::x",
     "tcp:0.0.0.0:1234", "tcp:10.1.2.3:1234", "tcp:[::]:1", "tcp:example.org:1", "tcp::１２"],
)  # fmt: skip
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_an_address_in_use_is_said() -> None:
    listener, address = listen(Address(port=0))
    with listener, pytest.raises(AddressError, match="in use"):
        listen(address)


def test_a_unix_socket_is_the_owners_and_goes_away(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    path = tmp_path / "gdb"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    running = start(FOREVER, address=Address(path=str(path)))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(AddressError):
        listen(Address(path=str(path)))
    client = running.client()
    assert client.ask(b"?") == b"T05thread:1;"
    client.close()
    running.server.stop()
    assert running.ended()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(AddressError):
        listen(Address(path=str(path)))
    assert path.read_text() == "mine"


# -- acknowledgements


def test_acknowledgements_until_they_are_switched_off(start: Callable[..., Running]) -> None:
    client = start(FOREVER).client()
    client.send(b"qC")
    assert client.next() == (Kind.ACK, b"")
    assert client.next() == (Kind.PACKET, b"QC1")
    client.raw(b"-")  # say it again
    assert client.next() == (Kind.PACKET, b"QC1")
    client.raw(b"+$qC#00")
    assert client.next() == (Kind.NACK, b"")
    assert client.ask(b"QStartNoAckMode") == b"OK"
    client.raw(b"+")
    client.send(b"qC")
    assert client.next() == (Kind.PACKET, b"QC1")
    client.raw(b"$qC#00")
    assert client.next() == (Kind.PACKET, b"E16")
    client.raw(b"-")  # means nothing any more
    assert client.ask(b"qC") == b"QC1"
    client.close()


def test_oversized_and_broken_packets_do_no_harm(start: Callable[..., Running]) -> None:
    client = start(FOREVER).client()
    assert client.ask(b"QStartNoAckMode") == b"OK"
    client.raw(b"$" + b"m" * (3 * MAX_BODY) + b"#00")
    assert client.reply() == b"E16"
    client.raw(b"$m10000,1$$$#" + b"\x00\xff" + b"\x03\x03" + bytes(range(128, 256)))
    client.send(b"m10000,1")
    while (reply := client.reply()) != b"2e":
        assert reply == b"E16"
    client.close()


# -- clients


def test_ctrl_c(start: Callable[..., Running]) -> None:
    running = start(FOREVER)
    client = running.client()
    client.send(b"c")
    assert running.toy.running.wait(PATIENCE)
    client.raw(b"\x03")
    assert client.reply() == b"T02thread:1;"
    client.raw(b"\x03")  # nothing runs: it means nothing
    assert client.ask(b"qC") == b"QC1"
    assert client.silent()
    client.close()


def test_ctrl_c_right_behind_continue(start: Callable[..., Running]) -> None:
    client = start(FOREVER).client()
    for _ in range(20):
        client.raw(frame(b"c") + b"\x03")
        assert client.reply() == b"T02thread:1;"
    client.close()


def test_a_client_that_vanishes_while_the_target_runs(start: Callable[..., Running]) -> None:
    running = start(FOREVER)
    client = running.client()
    assert client.ask(f"Z0,{CODE + 50:x},1".encode()) == b"OK"
    client.send(b"c")
    assert running.toy.running.wait(PATIENCE)
    client.close()
    # The next one finds it stopped, and without the first one's breakpoints.
    second = running.client()
    assert second.ask(b"?") == b"T05thread:1;"
    assert not running.toy.running.is_set()
    assert running.toy.stops == {}
    second.close()


def test_a_client_that_vanishes_in_the_middle_of_a_packet(start: Callable[..., Running]) -> None:
    running = start(FOREVER)
    for cut in (b"", b"$", b"$m100", b"$m10000,4#", b"$m10000,4#f", b"+", b"$vCont;s:p1.1#"):
        client = running.client()
        client.raw(cut)
        client.close()
    client = running.client()
    assert client.ask(b"m10000,1") == b"2e"
    client.close()


def test_a_second_client_is_turned_away(start: Callable[..., Running]) -> None:
    running = start(FOREVER)
    first = running.client()
    assert first.ask(b"qC") == b"QC1"
    second = running.client()
    assert second.next() is None
    first.send(b"c")
    assert running.toy.running.wait(PATIENCE)
    third = running.client()  # also while the target runs
    assert third.next() is None
    assert running.toy.running.is_set()
    first.raw(b"\x03")
    assert first.reply() == b"T02thread:1;"
    for client in (first, second, third):
        client.close()


def test_packets_sent_ahead_are_answered_when_it_has_stopped(
    start: Callable[..., Running],
) -> None:
    running = start(FOREVER)
    client = running.client()
    client.send(b"QStartNoAckMode")
    client.reply()
    client.raw(frame(b"c") + frame(b"qC") + frame(b"m10000,1"))
    assert running.toy.running.wait(PATIENCE)
    client.raw(b"\x03")
    assert [client.reply() for _ in range(3)] == [b"T02thread:1;", b"QC1", b"2e"]
    client.close()


def test_a_flood_while_the_target_runs(start: Callable[..., Running]) -> None:
    running = start(FOREVER)
    client = running.client()
    client.send(b"c")
    assert running.toy.running.wait(PATIENCE)
    client.raw(frame(b"qC") * 1000)
    while client.next() is not None:
        pass  # dropped
    second = running.client()
    assert second.ask(b"qC") == b"QC1"
    second.close()
    client.close()


# -- who lets it run


def test_it_runs_until_somebody_connects(start: Callable[..., Running]) -> None:
    running = start(FOREVER, frozen=False)
    assert running.toy.running.wait(PATIENCE)
    client = running.client()
    assert client.ask(b"?") == b"T05thread:1;"
    assert not running.toy.running.is_set()
    assert client.ask(b"D") == b"OK"
    client.close()
    assert running.toy.running.wait(PATIENCE)  # and on


def test_a_client_that_let_all_go_may_leave_without_a_word(start: Callable[..., Running]) -> None:
    running = start(FOREVER, FOREVER)
    client = running.client()
    for packet in (b"qSupported:multiprocess+", b"!", b"D;1", b"D;2"):
        client.ask(packet)
    assert not running.toy.running.is_set()
    client.close()
    assert running.toy.running.wait(PATIENCE)
    other = running.client()
    for packet in (b"qSupported:multiprocess+", b"!", b"D;2"):
        other.ask(packet)
    other.close()
    last = running.client()
    assert last.ask(b"?") == b"T05thread:1;"
    assert not running.toy.running.is_set()  # the first process was not let go
    last.close()


def test_it_is_over_when_everything_has_ended(start: Callable[..., Running]) -> None:
    assert start(b"...x", b"..!", frozen=False).ended()
    running = start(b"...x")
    client = running.client()
    assert client.ask(b"qSupported:multiprocess+").startswith(b"PacketSize")
    assert client.ask(b"vCont;c") == b"W03;process:1"
    client.close()
    assert running.ended()


def test_kill_is_the_end(start: Callable[..., Running]) -> None:
    running = start(FOREVER, FOREVER)
    client = running.client()
    client.send(b"k")
    assert client.next() == (Kind.ACK, b"")
    assert client.next() is None
    assert running.ended()
    assert running.toy.killed == [1, 2]
    client.close()


def test_stop_ends_it_in_any_state(start: Callable[..., Running]) -> None:
    waiting = start(FOREVER)
    waiting.server.stop()
    assert waiting.ended()
    free = start(FOREVER, frozen=False)
    free.server.stop()
    assert free.ended()
    busy = start(FOREVER)
    client = busy.client()
    client.send(b"c")
    assert busy.toy.running.wait(PATIENCE)
    busy.server.stop()
    assert busy.ended()
    client.close()
