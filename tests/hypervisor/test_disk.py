"""Disk images and the PV disk's protocol: a driver's end driven from outside, then hostile ones."""

import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor import disk
from hypervisor.abi import EvtchnOp, EvtchnSend, Hypercall, to_bytes
from hypervisor.audit import audit
from hypervisor.blkback import MAX_DISKS, Op
from hypervisor.disk import SECTOR, DiskError, DiskImage, Mode
from hypervisor.domain import Exit
from tests.hypervisor.kernels import Caller, Lab

OKAY, ERROR, UNSUPPORTED = 0, -1, -2
SECTORS = 64


def contents(sector, count=1):
    """What the test's image holds."""
    return b"".join(struct.pack("<I", sector + i) * 128 for i in range(count))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(contents(0, SECTORS))
    return file


# -- images --------------------------------------------------------------------------------------


def test_a_copy_never_changes_the_file(path):
    before = path.read_bytes()
    with DiskImage(str(path)) as image:
        assert image.sectors == SECTORS
        image.write(4000, b"x" * 300)
        assert image.read(3990, 320) == before[3990:4000] + b"x" * 300 + before[4300:4310]
        assert image.kept == 2 * disk.BLOCK
        assert image.read(0, 512) == before[:512]
        image.flush()
    assert path.read_bytes() == before


def test_the_last_block_may_be_short(tmp_path):
    file = tmp_path / "odd.img"
    file.write_bytes(contents(0, 9))
    with DiskImage(str(file)) as image:
        image.write(8 * SECTOR, b"end")
        assert image.read(8 * SECTOR, SECTOR)[:3] == b"end"
        with pytest.raises(DiskError, match="beyond its end"):
            image.write(9 * SECTOR, b"x")
        with pytest.raises(DiskError, match="beyond its end"):
            image.read(8 * SECTOR, SECTOR + 1)


def test_modes(path):
    with DiskImage(str(path), Mode.READ_ONLY) as image, pytest.raises(DiskError, match="read-only"):
        image.write(0, b"x")
    with DiskImage(str(path), Mode.WRITABLE) as image:
        image.write(7, b"written")
        image.flush()
        assert image.kept == 0
    assert path.read_bytes()[7:14] == b"written"


def test_what_is_kept_is_bounded(path, monkeypatch):
    monkeypatch.setattr(disk, "MAX_COPY_BYTES", 2 * disk.BLOCK)
    with DiskImage(str(path)) as image:
        for block in range(2):
            image.write(block * disk.BLOCK, b"x")
        with pytest.raises(DiskError, match="written already"):
            image.write(2 * disk.BLOCK, b"x")
        image.write(5, b"y")


def test_a_file_that_shrinks(path):
    with DiskImage(str(path)) as image:
        os.truncate(path, 1000)
        with pytest.raises(DiskError, match="shorter than it was"):
            image.read(512, 1024)


def test_bad_images(tmp_path, path):
    for name, data, says in (
        ("empty", b"", "less than one sector"),
        ("short", b"x" * 511, "less than one sector"),
        ("odd", b"x" * 1000, "no whole number of sectors"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DiskError, match=says):
            DiskImage(str(tmp_path / name))
    with pytest.raises(DiskError, match="No such file"):
        DiskImage(str(tmp_path / "none"))
    with pytest.raises(DiskError, match="not a regular file"):
        DiskImage(str(tmp_path))
    with pytest.raises(DiskError, match="null byte"):
        DiskImage("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match="not a regular file"):
        DiskImage(str(tmp_path / "pipe"))
    if os.geteuid() != 0:
        path.chmod(0o400)
        with pytest.raises(DiskError, match="opened for writing"):
            DiskImage(str(path), Mode.WRITABLE)


def test_names():
    assert DiskImage.parse("a.img") == ("a.img", Mode.COPY)
    assert DiskImage.parse("a.img:ro") == ("a.img", Mode.READ_ONLY)
    assert DiskImage.parse("a:b:rw") == ("a:b", Mode.WRITABLE)
    assert DiskImage.parse(":rw") == (":rw", Mode.COPY)
    assert DiskImage.parse("a:cow") == ("a:cow", Mode.COPY)


# -- the protocol --------------------------------------------------------------------------------

RING_REF, DATA_REF = 8, 16
RING_PAGE, DATA_PAGE = 1, 2
"""Pages of the caller's scratch memory; three of data (the last is half the table's)."""
REQUEST = {"x86_64-abi": struct.Struct("<BBH4xQQ"), "x86_32-abi": struct.Struct("<BBHQQ")}
RESPONSE = {"x86_64-abi": struct.Struct("<QBxh4x"), "x86_32-abi": struct.Struct("<QBxh")}
ENTRY = {"x86_64-abi": 112, "x86_32-abi": 108}


class Front:
    """A block driver in a domain that runs nothing."""

    def __init__(self, path, mode=Mode.COPY, protocol="x86_64-abi"):
        self.lab = Lab()
        self.hv = self.lab.hv
        self.guest = Caller(self.lab)
        self.domain = self.guest.domain
        self.protocol = protocol
        self.back = self.hv.disks.attach(self.domain, DiskImage(str(path), mode))
        self.port = 0
        self.prod = self.cons = 0
        for ref, page in ((RING_REF, RING_PAGE), (DATA_REF, DATA_PAGE)):
            self.grant(ref, self.mfn(page))

    def mfn(self, page):
        at = self.guest.scratch + page * PAGE_SIZE
        return self.hv.guest.translate(self.domain, at, write=True) >> PAGE_SHIFT

    def page(self, page):
        return self.hv.machine.memory.frame(self.mfn(page))

    def grant(self, ref, mfn, flags=1, domid=0):
        (table,) = self.hv.grants.table(self.domain).frames
        struct.pack_into("<HHI", self.hv.machine.memory.frame(table), 8 * ref, flags, domid, mfn)

    def flags(self, ref):
        (table,) = self.hv.grants.table(self.domain).frames
        return struct.unpack_from("<H", self.hv.machine.memory.frame(table), 8 * ref)[0]

    def store(self, name, value):
        self.hv.xenstore.write(f"{self.back.front}/{name}", str(value))

    @property
    def state(self):
        return int(self.hv.xenstore.read(f"{self.back.back}/state"))

    def said(self, name):
        return self.hv.xenstore.read(f"{self.back.back}/{name}").decode()

    @property
    def error(self):
        path = self.back.back.replace("/backend/", "/error/backend/") + "/error"
        found = self.hv.xenstore.read(path)
        return None if found is None else found.decode()

    def connect(self, ref=RING_REF, port=None):
        self.page(RING_PAGE)[:] = bytes(PAGE_SIZE)
        self.prod = self.cons = 0
        self.ring("rsp_event", 1)
        self.port = self.hv.events.alloc_unbound(self.domain, 0) if port is None else port
        self.store("ring-ref", ref)
        self.store("event-channel", self.port)
        self.store("protocol", self.protocol)
        self.store("state", 3)
        return self

    def ring(self, name, value=None):
        at = 4 * ("req_prod", "req_event", "rsp_prod", "rsp_event").index(name)
        if value is not None:
            struct.pack_into("<I", self.page(RING_PAGE), at, value & 0xFFFF_FFFF)
        return struct.unpack_from("<I", self.page(RING_PAGE), at)[0]

    def push(self, op, sector=0, segments=((DATA_REF, 0, 7),), count=None, label=77):
        raw = REQUEST[self.protocol].pack(
            op, len(segments) if count is None else count, 0, label, sector
        )
        raw += b"".join(struct.pack("<IBBxx", *part) for part in segments)
        at = 64 + self.prod % 32 * ENTRY[self.protocol]
        self.page(RING_PAGE)[at : at + len(raw)] = raw
        self.prod += 1
        self.ring("req_prod", self.prod)

    def kick(self):
        at = self.guest.put(to_bytes(EvtchnSend(port=self.port)))
        assert self.guest.call(Hypercall.event_channel_op, EvtchnOp.send, at) == 0

    def responses(self):
        found = []
        while self.cons != self.ring("rsp_prod"):
            at = 64 + self.cons % 32 * ENTRY[self.protocol]
            found.append(RESPONSE[self.protocol].unpack_from(self.page(RING_PAGE), at))
            self.cons += 1
        return found

    def ask(self, op, sector=0, segments=((DATA_REF, 0, 7),), count=None):
        self.push(op, sector, segments, count)
        self.kick()
        ((label, operation, status),) = self.responses()
        assert (label, operation) == (77, op)
        assert audit(self.hv) == []
        return status


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


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ring"), st.integers(0, PAGE_SIZE - 16), st.binary(max_size=16)),
        st.tuples(st.just("index"), st.integers(0, 3), st.integers(-40, 40)),
        st.tuples(
            st.just("push"),
            st.integers(0, 7),
            st.tuples(
                st.sampled_from([0, 1, 63, 64, (1 << 64) - 1]),
                st.lists(
                    st.tuples(
                        st.sampled_from([DATA_REF, RING_REF, 17, 0xFFFF]),
                        st.integers(0, 9),
                        st.integers(0, 9),
                    ),
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
            front.push(a, b[0], b[1])
        elif what == "store":
            front.store(a, b)
        elif what == "grant":
            front.grant(a, front.mfn(a % 3), flags=b)
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
