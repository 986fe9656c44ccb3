"""Framing of gdb's packets: what comes out of any bytes, in any pieces."""

from hypothesis import given
from hypothesis import strategies as st

from emu.gdb.packets import Item, Kind, Parser, checksum, escape, frame, unescape


def bodies(data: bytes, limit: int = 1000) -> list[bytes]:
    return [i.body for i in Parser(limit).feed(data) if i.kind is Kind.PACKET]


def test_a_packet_and_what_may_stand_between() -> None:
    found = Parser().feed(b"+junk-\x03$OK#9a+")
    kinds = [Kind.ACK, Kind.NACK, Kind.INTERRUPT, Kind.PACKET, Kind.ACK]
    assert [item.kind for item in found] == kinds
    assert found[3].body == b"OK"


def test_ctrl_c_inside_a_packet_is_data() -> None:
    assert Parser().feed(frame(b"X10,1:\x03")) == [Item(Kind.PACKET, b"X10,1:\x03")]


def test_a_wrong_sum_is_bad() -> None:
    (item,) = Parser().feed(b"$OK#00")
    assert item.kind is Kind.BAD
    assert "9a" in item.why
    for digits in (b"zz", b"+9", b" 9", b"9", b"\xff\xff"):
        assert bodies(b"$OK#" + digits) == []


def test_a_packet_that_the_next_one_cuts_short() -> None:
    found = Parser().feed(b"$m1234$OK#9a")
    assert [item.kind for item in found] == [Kind.BAD, Kind.PACKET]
    assert found[1].body == b"OK"


def test_what_is_too_long_is_not_kept() -> None:
    parser = Parser(limit=100)
    parser.feed(b"$" + b"x" * 10_000)
    assert parser.held <= 100
    found = parser.feed(b"y" * 100 + b"#00" + frame(b"OK"))
    assert [item.kind for item in found] == [Kind.BAD, Kind.PACKET]
    assert "more than 100" in found[0].why


def test_an_escape_at_the_end_is_bad() -> None:
    raw = b"X0,1:}"
    (item,) = Parser().feed(b"$" + raw + b"#%02x" % checksum(raw))
    assert item.kind is Kind.BAD


@given(st.binary(max_size=300))
def test_escape_and_back(data: bytes) -> None:
    raw = escape(data)
    assert not set(raw) & set(b"$#*")
    assert unescape(raw) == data


@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(1, 7))
def test_any_bodies_in_any_pieces(sent: list[bytes], piece: int) -> None:
    stream = b"+".join(frame(escape(body)) for body in sent)
    parser = Parser()
    found: list[bytes] = []
    for start in range(0, len(stream), piece):
        items = parser.feed(stream[start : start + piece])
        found += [item.body for item in items if item.kind is Kind.PACKET]
    assert found == sent


@given(st.binary(max_size=400))
def test_noise_never_harms(noise: bytes) -> None:
    parser = Parser(limit=50)
    for byte in noise:
        parser.feed(bytes((byte,)))
        assert parser.held <= 52
    # Whatever state it was in, the second of two good packets comes through.
    found = parser.feed(frame(b"one") + frame(b"two"))
    assert Item(Kind.PACKET, b"two") in found
