"""The console ring: output, input, and indices that lie."""

from hypervisor.domain import Exit
from tests.hypervisor.kernels import Lab
from tests.hypervisor.xenstore_guest import Guest

OUT = ("out", "out_cons", "out_prod", 2048)
IN = ("in_", "in_cons", "in_prod", 1024)


class ConsoleGuest(Guest):
    """A guest that writes and reads by its ring."""

    @property
    def port(self) -> int:
        return int(self.info.console.domU.evtchn)

    def say(self, text: bytes) -> int:
        count = self.console.put(text, *OUT)
        assert self.send(self.port) == 0
        return count

    def heard(self) -> bytes:
        return self.console.take(*IN)


def test_output() -> None:
    guest = ConsoleGuest()
    assert guest.say(b"hello\r\nworld") == 12
    assert guest.domain.console.lines == ["hello"]
    assert guest.domain.console.partial == "world"
    assert guest.console["out_cons"] == 12
    assert guest.pending(guest.port)
    for _ in range(300):
        assert guest.say(b"0123456789\n") == 11
    assert guest.domain.console.lines[1:] == ["world0123456789", *["0123456789"] * 299]
    guest.lab.check()


def test_output_that_is_never_announced_is_shown_at_the_end() -> None:
    guest = ConsoleGuest()
    guest.console.put(b"last words", *OUT)
    guest.hv.end(guest.domain, Exit("poweroff"))
    assert guest.domain.console.partial == "last words"


def test_input() -> None:
    guest = ConsoleGuest()
    console = guest.domain.console
    console.feed(b"early")
    assert guest.console["in_prod"] == 0  # it may be one that reads by console_io
    guest.say(b">")
    assert guest.heard() == b"early"
    guest.take_events()
    console.feed(b"x" * 1500)
    assert guest.pending(guest.port)
    assert (guest.console["in_prod"], console.waiting) == (5 + 1024, 476)
    assert guest.heard() == b"x" * 1024
    assert guest.send(guest.port) == 0
    assert guest.heard() == b"x" * 476
    ring = guest.hv.console_ring(guest.domain)
    assert ring is not None
    assert ring.empty


def test_indices_that_lie() -> None:
    lab = Lab()
    guest, other = ConsoleGuest(lab), ConsoleGuest(lab)
    guest.say(b"a")
    guest.console["out_prod"] = guest.console["out_cons"] + 2049
    guest.console["in_cons"] = 7
    assert guest.send(guest.port) == 0
    guest.domain.console.feed(b"keys")
    assert guest.domain.console.partial == "a"
    assert guest.console["in_prod"] == 0
    other.say(b"fine\n")
    assert other.domain.console.lines == ["fine"]
    # It may set them right again.
    guest.console["out_prod"] = guest.console["out_cons"]
    guest.console["in_cons"] = 0
    guest.say(b"b")
    assert guest.domain.console.partial == "ab"
    assert guest.heard() == b"keys"
    lab.check()


def test_a_flood_is_cut_as_any_output() -> None:
    guest = ConsoleGuest()
    guest.domain.console._limit = 10_000
    for _ in range(20):
        guest.say(b"y" * 2048)
    assert guest.domain.console.written == 10_000
    assert guest.domain.console.dropped == 20 * 2048 - 10_000
