"""Attacks on all rings at once: console, XenStore, disk, with grants and frames changed meanwhile.

The attacker owns its pages and does to them whatever it likes; a victim beside it uses the same
services, and must get all that it wrote and asked for. What the attacker can make this process
keep is looked at after each round, and the audit is clean all the time.
"""

import random
import struct

import pytest

from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor import disk
from hypervisor.abi import (
    EvtchnClose,
    EvtchnOp,
    EvtchnSend,
    GnttabOp,
    Hypercall,
    MmuExt,
    XenStore,
    to_bytes,
)
from hypervisor.audit import audit
from hypervisor.blkback import Op
from hypervisor.disk import DiskError, DiskImage, Mode
from hypervisor.domain import Exit
from tests.hypervisor.block_front import (
    DATA_PAGE,
    DATA_REF,
    OKAY,
    RING_PAGE,
    RING_REF,
    SECTORS,
    Front,
    contents,
)
from tests.hypervisor.kernels import Lab
from tests.hypervisor.xenstore_guest import HEADER, StoreGuest

SELF = 0x7FF0
KINDS = [int(kind) for kind in XenStore] + [99]
EBUSY, EINVAL = -16, -22


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(contents(0, SECTORS))
    return file


class Victim(Front):
    """A domain with a disk, XenStore and a console, that checks all that it gets."""

    def __init__(self, lab, path):
        super().__init__(path, lab=lab)
        self.connect()
        self.store_guest = StoreGuest(lab)
        self.turn = 0

    def works(self):
        self.turn += 1
        self.hv.switch_to(self.domain)
        sector = 8 * (self.turn % 8)
        assert self.ask(Op.READ, sector) == OKAY
        assert bytes(self.page(DATA_PAGE)) == contents(sector, 8)
        guest, value = self.store_guest, b"%d" % self.turn
        assert guest.write("data/turn", value) == b"OK\0"
        assert guest.read("data/turn") == value
        console = guest.domain.console
        guest.console.put(b"turn %d\n" % self.turn, "out", "out_cons", "out_prod", 2048)
        assert guest.send(guest.info.console.domU.evtchn) == 0
        assert console.lines[-1] == f"turn {self.turn}"


class Attacker(Front):
    """One that does anything to its rings, in order of its dice."""

    def __init__(self, lab, path, seed):
        super().__init__(path, lab=lab)
        self.connect()
        self.rng = random.Random(seed)
        self.tables = [self.mfn(RING_PAGE), self.mfn(DATA_PAGE)]
        self.store_frame, self.console_frame = self.domain.service_frames

    def step(self):
        self.hv.switch_to(self.domain)
        getattr(self, "do_" + self.rng.choice(DEEDS))()

    def scribble(self, mfn, low, high, limit=8):
        frame = self.hv.machine.memory.frame(mfn)
        for _ in range(self.rng.randrange(1, limit)):
            frame[self.rng.randrange(low, high)] = self.rng.randrange(256)

    def send(self, port):
        at = self.guest.put(to_bytes(EvtchnSend(port=port)))
        return self.guest.call(Hypercall.event_channel_op, EvtchnOp.send, at)

    def do_block_indices(self):
        self.scribble(self.tables[0], 0, 16)
        self.send(self.port)

    def do_block_requests(self):
        self.scribble(self.tables[0], 64, PAGE_SIZE, 200)
        at = struct.unpack_from("<I", self.hv.machine.memory.frame(self.tables[0]), 8)[0]
        struct.pack_into(
            "<I",
            self.hv.machine.memory.frame(self.tables[0]),
            0,
            (at + self.rng.randrange(33)) % 2**32,
        )
        self.send(self.port)

    def do_block_state(self):
        name = self.rng.choice(["state", "state", "ring-ref", "event-channel", "protocol"])
        self.store(name, self.rng.choice(["1", "3", "4", "5", "6", "8", "0", "x", "9999999999"]))

    def do_block_again(self):
        self.store("state", 6)
        self.store("state", 1)
        self.hv.machine.memory.frame(self.tables[0])[:64] = bytes(64)
        channel = self.hv.events.channel(self.domain, self.port)
        if channel is None:
            self.port = self.hv.events.alloc_unbound(self.domain, 0)
        self.store("ring-ref", RING_REF)
        self.store("event-channel", self.port)
        self.store("protocol", self.protocol)
        self.store("state", 3)

    def do_grants(self):
        ref = self.rng.choice([RING_REF, DATA_REF, 0, 1, self.rng.randrange(40)])
        flags = self.rng.choice([0, 1, 5, 3, 0x101, self.rng.randrange(65536)])
        frame = self.rng.choice([*self.tables, self.domain.table, 0, self.rng.randrange(8192)])
        frames = self.hv.grants.table(self.domain).frames
        struct.pack_into("<HHI", self.hv.machine.memory.frame(frames[0]), 8 * ref, flags, 0, frame)

    def do_grants_right(self):
        for ref, mfn in ((RING_REF, self.tables[0]), (DATA_REF, self.tables[1])):
            frames = self.hv.grants.table(self.domain).frames
            struct.pack_into("<HHI", self.hv.machine.memory.frame(frames[0]), 8 * ref, 1, 0, mfn)

    def do_grant_version(self):
        at = self.guest.put(struct.pack("<I", self.rng.choice([1, 2])))
        self.guest.call(Hypercall.grant_table_op, GnttabOp.set_version, at, 1)

    def do_frames(self):
        mfn = self.rng.choice([*self.tables, self.store_frame, self.console_frame])
        command = self.rng.choice([MmuExt.PIN_L1_TABLE, MmuExt.UNPIN_TABLE, MmuExt.PIN_L4_TABLE])
        at = self.guest.put(struct.pack("<I4xQQ", command, mfn, 0))
        assert self.guest.call(Hypercall.mmuext_op, at, 1, 0, SELF) != 0

    def do_share(self):
        page = self.rng.choice([RING_PAGE, DATA_PAGE])
        at = self.guest.scratch + page * PAGE_SIZE
        connected = self.hv.grants.uses  # whatever holds the ring keeps it from being shared
        assert connected is not None
        before = self.hv.frames.owner[self.tables[page - 1]]
        answer = self.guest.call(Hypercall.make_ro_and_share, at, 0, 0)
        if before == self.domain.id and answer in (0, 1):
            # It is the machine's now; the attacker needs another.
            fresh = self.hv.frames.allocate(self.domain.id)
            self.domain.pages += 1
            entry = fresh << PAGE_SHIFT | 7
            assert self.guest.call(Hypercall.update_va_mapping, at, entry, 2) == 0
            self.tables[page - 1] = fresh

    def do_ports(self):
        port = self.rng.choice([self.port, self.rng.randrange(6)])
        if self.rng.random() < 0.3:
            at = self.guest.put(to_bytes(EvtchnClose(port=port)))
            self.guest.call(Hypercall.event_channel_op, EvtchnOp.close, at)
        else:
            self.send(port)

    def do_console(self):
        self.scribble(self.console_frame, 0, 3088, 50)
        self.domain.console.feed(b"keys")
        self.send(2)

    def do_console_indices(self):
        self.scribble(self.console_frame, 3072, 3088)
        self.send(2)

    def do_store_noise(self):
        self.scribble(self.store_frame, 0, 2076, 60)
        self.send(1)

    def do_store_request(self):
        rng = self.rng
        parts = [rng.choice(["data", "data/a", "/", "@x", "T", "F", "1", "n0"]) for _ in range(3)]
        payload = "\0".join(parts).encode() + b"\0" + bytes(rng.randrange(900))
        message = HEADER.pack(rng.choice(KINDS), 1, rng.choice([0, 0, 1]), len(payload)) + payload
        frame = self.hv.machine.memory.frame(self.store_frame)
        cons, prod = struct.unpack_from("<II", frame, 2048)
        if (prod - cons) % 2**32 + len(message) <= 1024:
            for i, byte in enumerate(message):
                frame[(prod + i) % 1024] = byte
            struct.pack_into("<I", frame, 2052, (prod + len(message)) % 2**32)
        if rng.random() < 0.5:
            struct.pack_into("<I", frame, 2056, struct.unpack_from("<I", frame, 2060)[0])
        if rng.random() < 0.1:
            struct.pack_into("<I", frame, 2068, 1)  # reconnect
        self.send(1)


DEEDS = sorted(name[3:] for name in vars(Attacker) if name.startswith("do_"))


@pytest.mark.parametrize("seed", range(4))
def test_an_attacker_hurts_nobody(path, seed):
    lab = Lab()
    victim = Victim(lab, path)
    attacker = Attacker(lab, path, seed)
    store = lab.hv.xenstore
    for turn in range(400):
        attacker.step()
        if turn % 5 == 0:
            assert audit(lab.hv) == []
            victim.works()
        assert store.tree.memory[attacker.domain.id] <= store.tree.quotas.memory + 8192
        assert attacker.back.image.kept <= SECTORS * 512
    lab.hv.end(attacker.domain, Exit("destroyed"))
    lab.hv.reap()
    victim.works()
    for guest in (victim, victim.store_guest):
        lab.hv.end(guest.domain, Exit("destroyed"))
        lab.hv.reap()
    lab.check_empty()


# -- one attack each -----------------------------------------------------------------------------


@pytest.fixture
def front(path):
    return Front(path).connect()


def test_a_ring_frame_that_is_given_back_stays_until_the_backend_lets_go(front):
    hv, ring = front.hv, front.mfn(RING_PAGE)
    at = front.guest.scratch + RING_PAGE * PAGE_SIZE
    assert front.guest.call(Hypercall.update_va_mapping, at, 0, 2) == 0
    numbers = front.guest.put(struct.pack("<Q", ring), 0x700)
    call = front.guest.put(struct.pack("<QQIIH6x", numbers, 1, 0, 0, SELF), 0x780)
    assert front.guest.call(Hypercall.memory_op, 1, call) == 1
    assert hv.frames.owner[ring] == front.domain.id, "the backend holds it"
    assert audit(hv) == []
    struct.pack_into("<I", hv.machine.memory.frame(ring), 0, 1)
    front.kick()
    assert audit(hv) == []
    front.store("state", 6)
    assert hv.frames.owner[ring] == 0xFFFF
    assert audit(hv) == []


def test_a_ring_frame_is_no_table_and_not_to_be_shared(front):
    at = front.guest.scratch + RING_PAGE * PAGE_SIZE
    assert front.guest.call(Hypercall.make_ro_and_share, at, 0, 0) == EBUSY
    op = front.guest.put(struct.pack("<I4xQQ", MmuExt.PIN_L1_TABLE, front.mfn(RING_PAGE), 0))
    assert front.guest.call(Hypercall.mmuext_op, op, 1, 0, SELF) == EINVAL
    assert front.ask(Op.READ) == OKAY


def test_grants_change_their_version_under_the_backend(front):
    table = front.hv.grants.table(front.domain)
    assert front.hv.grants.set_version(front.domain, 2) == EBUSY, "entry 8 is the ring"
    front.store("state", 6)
    assert front.hv.grants.set_version(front.domain, 2) == 0
    front.store("state", 1)
    (frame,) = table.frames
    for ref, page in ((RING_REF, RING_PAGE), (DATA_REF, DATA_PAGE)):
        entry = struct.pack("<HHIQ", 1, 0, 0, front.mfn(page))
        front.hv.machine.memory.frame(frame)[16 * ref : 16 * ref + 16] = entry
    front.connect(port=front.port)
    assert front.state == 4
    assert front.ask(Op.READ) == OKAY
    assert table.in_use(DATA_REF) == 0
    # Part of a page is no buffer: a real backend maps pages, and such a grant refuses that.
    part = struct.pack("<HHHHQ", 0x101, 0, 512, 512, front.mfn(DATA_PAGE))
    front.hv.machine.memory.frame(frame)[16 * DATA_REF : 16 * DATA_REF + 16] = part
    assert front.ask(Op.READ) != OKAY
    assert table.in_use(DATA_REF) == 0
    assert audit(front.hv) == []


def test_what_all_disks_of_a_machine_keep_is_bounded(path, monkeypatch):
    monkeypatch.setattr(disk, "MAX_COPY_BYTES", 3 * disk.BLOCK)
    lab = Lab()
    first, second = Front(path, lab=lab).connect(), Front(path, lab=lab).connect()
    for front in (first, second):
        front.hv.switch_to(front.domain)
        assert front.ask(Op.WRITE, 0) == OKAY
        assert front.ask(Op.WRITE, 0) == OKAY
    assert second.ask(Op.WRITE, 8) == OKAY
    assert second.ask(Op.WRITE, 16) != OKAY
    lab.hv.end(first.domain, Exit("destroyed"))
    lab.hv.reap()
    lab.hv.switch_to(second.domain)
    assert second.ask(Op.WRITE, 16) == OKAY
    assert second.ask(Op.READ, 16) == OKAY


def test_flushing_all_the_time_asks_the_host_only_when_something_was_written(path, monkeypatch):
    calls = []
    monkeypatch.setattr(disk.os, "fsync", calls.append)
    front = Front(path, Mode.WRITABLE).connect()
    for _ in range(50):
        assert front.ask(Op.FLUSH_DISKCACHE, 0, []) == OKAY
    assert calls == []
    assert front.ask(Op.WRITE, 0) == OKAY
    for _ in range(50):
        assert front.ask(Op.FLUSH_DISKCACHE, 0, []) == OKAY
    assert len(calls) == 1


def test_a_failed_flush_is_tried_again(path, monkeypatch):
    def fails(_file):
        raise OSError(5, "Input/output error")

    with DiskImage(str(path), Mode.WRITABLE) as image:
        image.write(0, b"x")
        monkeypatch.setattr(disk.os, "fsync", fails)
        for _ in range(2):
            with pytest.raises(DiskError):
                image.flush()


def test_one_commit_tells_of_each_path_once():
    """However often a transaction wrote to it: else one commit could keep everybody waiting."""
    lab = Lab()
    guest = StoreGuest(lab)
    for i in range(100):
        assert guest.request(XenStore.WATCH, "data", f"{i}") == b"OK\0"
    guest.take_store_events()
    tx = guest.start()
    for i in range(2000):
        assert guest.write(f"data/{i % 3}", b"%d" % i, tx) == b"OK\0"
    before = lab.hv.xenstore.tree.work
    assert guest.end(tx) == b"OK\0"
    assert lab.hv.xenstore.tree.work - before < 100 * 3 + 100
    events = guest.take_store_events()
    assert len(events) == 300
    assert guest.read("data/1") == b"1999"


def test_conflicting_transactions_of_two_domains():
    lab = Lab()
    first, second = StoreGuest(lab), StoreGuest(lab)
    shared = "/local/domain/1/data/common"
    assert first.write(shared, b"0") == b"OK\0"
    perms = ["n1", "b2"]
    assert first.request(XenStore.SET_PERMS, shared, *perms) == b"OK\0"
    won = {1: 0, 2: 0}
    for turn in range(40):
        one, two = first.start(), second.start()
        value = int(first.read(shared, one))
        assert int(second.read(shared, two)) == value
        order = (first, one), (second, two)
        for guest, tx in order if turn % 2 else reversed(order):
            assert guest.write(shared, b"%d" % (value + 1), tx) == b"OK\0"
            answer = guest.end(tx)
            if answer == b"OK\0":
                won[guest.domain.id] += 1
            else:
                assert answer == "EAGAIN"
        assert int(first.read(shared)) == value + 1
    assert won == {1: 20, 2: 20}
    lab.hv.end(first.domain, Exit("destroyed"))
    lab.hv.reap()
    assert second.read(shared) == "EACCES"
    lab.check()
