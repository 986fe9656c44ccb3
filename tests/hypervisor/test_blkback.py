"""The PV disk's protocol: the handshake, requests, and drivers that lie."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.units import PAGE_SIZE
from hypervisor.audit import audit
from hypervisor.blkback import MAX_DISKS, Op
from hypervisor.disk import DiskError, DiskImage, Mode
from hypervisor.domain import Exit
from tests.hypervisor.block_front import (
    DATA_PAGE,
    DATA_REF,
    ERROR,
    OKAY,
    REQUEST,
    RING_PAGE,
    RING_REF,
    SECTORS,
    UNSUPPORTED,
    Front,
    contents,
)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(contents(0, SECTORS))
    return file


@pytest.fixture
def front(path):
    return Front(path).connect()


def test_the_handshake(path):
    front = Front(path)
    assert front.state == 2
    assert front.back.front == f"/local/domain/{front.domain.id}/device/vbd/51712"
    assert front.said("mode") == "w"
    front.connect()
    assert front.state == 4
    assert (front.said("sectors"), front.said("sector-size")) == (str(SECTORS), "512")
    assert front.said("info") == "0"
    assert front.flags(RING_REF) & 24 == 24
    assert audit(front.hv) == []
    front.store("state", 4)
    front.store("state", 5)
    assert front.state == 6
    assert front.flags(RING_REF) == 1
    front.store("state", 6)
    front.store("state", 1)
    assert front.state == 2
    front.connect(port=front.port)
    assert front.state == 4
    assert front.ask(Op.READ) == OKAY


@pytest.mark.parametrize("protocol", sorted(REQUEST))
def test_reading_and_writing(path, protocol):
    front = Front(path, protocol=protocol).connect()
    before = path.read_bytes()
    assert front.ask(Op.READ, 8) == OKAY
    assert bytes(front.page(DATA_PAGE)) == contents(8, 8)
    assert front.ask(Op.READ, 3, [(DATA_REF, 7, 7), (DATA_REF, 0, 1)]) == OKAY
    assert bytes(front.page(DATA_PAGE)) == contents(4, 2) + contents(10, 5) + contents(3)
    front.page(DATA_PAGE)[:] = b"w" * PAGE_SIZE
    assert front.ask(Op.WRITE, SECTORS - 1, [(DATA_REF, 2, 2)]) == OKAY
    front.page(DATA_PAGE)[:] = bytes(PAGE_SIZE)
    assert front.ask(Op.READ, SECTORS - 2, [(DATA_REF, 0, 1)]) == OKAY
    assert bytes(front.page(DATA_PAGE))[:1024] == contents(SECTORS - 2) + b"w" * 512
    assert front.ask(Op.FLUSH_DISKCACHE, 0, []) == OKAY
    assert front.ask(Op.READ, 0, [(DATA_REF, 0, 7)] * 5 + [(DATA_REF, 0, 0)] * 6) == OKAY
    assert path.read_bytes() == before
    assert front.flags(DATA_REF) == 1


def test_writing_into_the_file(path):
    front = Front(path, Mode.WRITABLE).connect()
    front.page(DATA_PAGE)[:] = b"w" * PAGE_SIZE
    assert front.ask(Op.WRITE, 2, [(DATA_REF, 0, 0)]) == OKAY
    assert path.read_bytes() == contents(0, 2) + b"w" * 512 + contents(3, SECTORS - 3)


def test_a_readonly_disk(path):
    front = Front(path, Mode.READ_ONLY).connect()
    assert (front.said("mode"), front.said("info")) == ("r", "4")
    assert front.ask(Op.WRITE) == ERROR
    assert front.ask(Op.READ) == OKAY


@pytest.mark.parametrize(
    ("op", "sector", "segments", "count", "status"),
    [
        (Op.READ, SECTORS - 7, [(DATA_REF, 0, 7)], None, ERROR),
        (Op.READ, 1 << 63, [(DATA_REF, 0, 7)], None, ERROR),
        (Op.WRITE, (1 << 64) - 1, [(DATA_REF, 0, 7)], None, ERROR),
        (Op.READ, 0, [], None, ERROR),
        (Op.READ, 0, [(DATA_REF, 0, 0)] * 11, 12, ERROR),
        (Op.READ, 0, [(DATA_REF, 0, 0)] * 11, 255, ERROR),
        (Op.READ, 0, [(DATA_REF, 5, 4)], None, ERROR),
        (Op.READ, 0, [(DATA_REF, 0, 8)], None, ERROR),
        (Op.READ, 0, [(DATA_REF, 255, 255)], None, ERROR),
        (Op.READ, 0, [(DATA_REF, 0, 0), (99, 0, 0)], None, ERROR),
        (Op.READ, 0, [(0xFFFF_FFFF, 0, 0)], None, ERROR),
        (Op.READ, 0, [(17, 0, 0)], None, ERROR),
        (Op.READ, 0, [(18, 0, 0)], None, ERROR),
        (Op.READ, 0, [(19, 0, 0)], None, ERROR),
        (Op.WRITE_BARRIER, 0, [(DATA_REF, 0, 0)], None, UNSUPPORTED),
        (Op.DISCARD, 0, [], None, UNSUPPORTED),
        (Op.INDIRECT, 0, [], None, UNSUPPORTED),
        (4, 0, [], None, ERROR),
        (200, 0, [], None, ERROR),
    ],
)
def test_bad_requests(front, op, sector, segments, count, status):
    front.grant(17, front.mfn(DATA_PAGE), flags=5)  # read-only, and reading stores into it
    front.grant(18, front.mfn(DATA_PAGE), domid=1)
    front.grant(19, 0)
    front.page(DATA_PAGE)[:] = b"#" * PAGE_SIZE
    assert front.ask(op, sector, segments, count) == status
    assert bytes(front.page(DATA_PAGE)) == b"#" * PAGE_SIZE
    assert front.flags(17) == 5
    assert front.flags(DATA_REF) == 1
    assert front.ask(Op.READ) == OKAY


def test_a_readonly_grant_serves_for_writing(front):
    front.grant(17, front.mfn(DATA_PAGE), flags=5)
    assert front.ask(Op.WRITE, 0, [(17, 0, 0)]) == OKAY


def test_a_page_table_is_no_buffer(front):
    front.grant(17, front.domain.table)
    assert front.ask(Op.READ, 0, [(17, 0, 0)]) == ERROR


def test_a_full_ring_and_its_wrap(front):
    for start in range(0, 96, 32):
        for i in range(32):
            front.push(Op.READ, i % 8, label=start + i)
        front.kick()
        assert [r[0] for r in front.responses()] == list(range(start, start + 32))


def test_events_come_when_asked_for(front):
    events = front.hv.events
    for wanted, comes in ((1, True), (3, False), (3, True)):
        front.guest.take_events()
        front.ring("rsp_event", wanted)
        front.ask(Op.READ)
        assert events.pending(front.domain, front.port) is comes
    assert front.ring("req_event") == 4
    front.guest.take_events()
    front.kick()
    assert not events.pending(front.domain, front.port)


@pytest.mark.parametrize("lie", [33, 1 << 31, -1])
def test_a_producer_index_that_lies_stops_the_backend(front, lie):
    front.ask(Op.READ)
    front.ring("req_prod", front.prod + lie)
    front.kick()
    assert front.state == 6
    assert "producer index" in front.error
    assert front.flags(RING_REF) == 1
    assert audit(front.hv) == []
    front.kick()
    front.store("state", 3)
    assert front.state == 6
    front.store("state", 1)
    front.connect(port=front.port)
    assert front.state == 4
    assert front.error is None
    assert front.ask(Op.READ) == OKAY


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ring-ref", "", "ring-ref is missing"),
        ("ring-ref", "-1", "ring-ref is missing"),
        ("ring-ref", "9" * 50, "ring-ref is missing"),
        ("ring-ref", "4294967295", "not granted"),
        ("ring-ref", "99", "not granted"),
        ("event-channel", "0", "not left for domain 0"),
        ("event-channel", "4000000000", "not left for domain 0"),
        ("event-channel", "1", "not left for domain 0"),
        ("protocol", "arm-abi", "unknown protocol"),
        ("protocol", "\u00e9", "unknown protocol"),
    ],
)
def test_a_handshake_that_lies(path, name, value, says):
    front = Front(path)
    front.store("ring-ref", RING_REF)
    front.store("event-channel", front.hv.events.alloc_unbound(front.domain, 0))
    front.store(name, value)
    front.store("state", 3)
    assert front.state == 6
    assert says in front.error
    assert front.flags(RING_REF) == 1
    assert audit(front.hv) == []


@pytest.mark.parametrize("state", ["", "x", "7", "999999999999", "0"])
def test_states_that_are_none(front, state):
    front.store("state", state)
    assert front.state == 4


def test_a_port_that_the_guest_closes(front):
    front.hv.events.close(front.domain, front.port)
    front.store("state", 6)
    assert front.state == 6
    assert audit(front.hv) == []


def test_the_ring_may_be_its_own_buffer(front):
    assert front.ask(Op.WRITE, 0, [(RING_REF, 0, 7)]) == OKAY
    front.push(Op.READ, 8, [(RING_REF, 0, 7)])
    front.kick()
    assert audit(front.hv) == []
    front.kick()


def test_a_grant_that_is_revoked_meanwhile(front):
    front.grant(RING_REF, 0, flags=0)
    assert front.ask(Op.READ) == OKAY
    front.grant(DATA_REF, 0, flags=0)
    assert front.ask(Op.READ) == ERROR


def test_the_host_fails(front, path):
    os.truncate(path, 1024)
    assert front.ask(Op.READ, 0, [(DATA_REF, 0, 1)]) == OKAY
    assert front.ask(Op.READ, 0, [(DATA_REF, 0, 2)]) == ERROR


def test_the_domain_ends(front):
    back = front.back
    front.hv.end(front.domain, Exit("destroyed"))
    assert front.hv.xenstore.read(back.back) is None
    assert front.hv.xenstore.read(back.front) is None
    front.lab.check_empty()


def test_several_disks(path):
    front = Front(path)
    second = front.hv.disks.attach(front.domain, DiskImage(str(path)))
    assert second.front.endswith("/51728")
    assert second.name == "xvdb"
    for _ in range(2, MAX_DISKS):
        front.hv.disks.attach(front.domain, DiskImage(str(path)))
    image = DiskImage(str(path))
    with pytest.raises(DiskError, match="16 disks"):
        front.hv.disks.attach(front.domain, image)
    image.close()


def target(front, part):
    """A segment, or a page of the driver's scratch memory or behind it as one number."""
    if len(part) == 3:
        return part
    page, more = part
    return (front.guest.scratch + (page + 2) * PAGE_SIZE + more) % (1 << 64)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ring"), st.integers(0, PAGE_SIZE - 16), st.binary(max_size=16)),
        st.tuples(st.just("index"), st.integers(0, 3), st.integers(-40, 40)),
        st.tuples(
            st.just("push"),
            st.sampled_from([*range(8), 64, 64]),
            st.tuples(
                st.sampled_from([0, 1, 8, 63, 64, (1 << 64) - 1]),
                st.lists(
                    st.tuples(
                        st.sampled_from([DATA_REF, RING_REF, 17, 0xFFFF]),
                        st.integers(0, 9),
                        st.integers(0, 9),
                    )
                    | st.tuples(st.integers(0, 4), st.sampled_from([0, 4, 0xE00, 1, 1 << 40])),
                    max_size=11,
                ),
            ),
        ),
        st.tuples(
            st.just("store"),
            st.sampled_from(["state", "ring-ref", "event-channel", "protocol"]),
            st.sampled_from(["1", "3", "4", "5", "6", "8", "16", "99", "x86_32-abi", "", "\u00ff"]),
        ),
        st.tuples(st.just("grant"), st.integers(0, 20), st.integers(0, 31)),
        st.tuples(st.just("connect"), st.integers(0, 2), st.none()),
        st.tuples(st.just("close"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
def test_no_driver_breaks_anything(path, steps):
    front = Front(path).connect()
    for what, a, b in steps:
        if what == "ring":
            front.page(RING_PAGE)[a : a + len(b)] = b
        elif what == "index":
            names = ("req_prod", "req_event", "rsp_prod", "rsp_event")
            front.ring(names[a], front.ring("req_prod") + b)
        elif what == "push":
            front.prod = front.ring("req_prod")
            front.push(a, b[0], [target(front, part) for part in b[1]])
        elif what == "store":
            front.store(a, b)
        elif what == "grant":
            front.grant(a, front.mfn(a % 3, write=False), flags=b)
        elif what == "connect":
            front.store("state", 6)
            front.store("state", 1)
            front.connect()
        else:
            front.hv.events.close(front.domain, front.port)
        if front.hv.events.channel(front.domain, front.port) is not None:
            front.kick()
        assert audit(front.hv) == []
    front.hv.end(front.domain, Exit("destroyed"))
    front.hv.reap()
    front.lab.check_empty()
