"""XenStore and guests that flood it or lie to it: bounded, refused, and nobody else's trouble."""

import random

from hypervisor.abi import EvtchnClose, EvtchnOp, Hypercall, XenStore
from tests.hypervisor.kernels import Lab
from tests.hypervisor.xenstore_guest import HEADER, StoreGuest

OK = b"OK\0"
RECONNECTION, ERROR = 1, 2
RINGIDX, PROTO = 2, 3


def test_what_the_page_says() -> None:
    guest = StoreGuest()
    assert guest.store["server_features"] == RECONNECTION | ERROR
    assert (guest.store["connection"], guest.store["error"]) == (0, 0)


def test_indices_that_lie() -> None:
    for name, value in (("req_prod", 1025), ("req_prod", -1), ("rsp_cons", 1), ("rsp_prod", 5000)):
        lab = Lab()
        guest, other = StoreGuest(lab), StoreGuest(lab)
        assert guest.request(XenStore.WATCH, "data", "t") == OK
        guest.take_store_events()
        guest.start()
        guest.store[name] = guest.store[name] + value
        if name != "req_prod":
            guest.store.put(HEADER.pack(XenStore.READ, 1, 0, 5) + b"name\0", *RING)
        guest.kick()
        assert guest.store["error"] == RINGIDX, name
        assert guest.hv.xenstore.watches.count == 0
        assert other.read("name") == b"test"
        # It is not listened to any more, until it begins anew.
        guest.store["req_cons"] = guest.store["req_prod"] = 0
        guest.store["rsp_cons"] = guest.store["rsp_prod"] = 0
        guest.store.put(HEADER.pack(XenStore.READ, 1, 0, 5) + b"name\0", *RING)
        guest.kick()
        assert guest.store["rsp_prod"] == 0
        guest.store["connection"] = 1
        guest.kick()
        assert (guest.store["connection"], guest.store["error"]) == (0, 0)
        assert guest.read("name") == b"test"
        assert guest.end(1) == "ENOENT"
        lab.check()


RING = ("req", "req_cons", "req_prod", 1024)


def test_a_message_that_is_too_long() -> None:
    guest = StoreGuest()
    assert guest.write("data/x", b"x" * 1900) == OK
    assert guest.ask(XenStore.READ, b"x" * 4095 + b"\0")[3] == b"EINVAL\0"
    guest.push(HEADER.pack(XenStore.READ, 1, 0, 4097))
    assert guest.store["error"] == PROTO
    assert guest.push(b"y" * 5000) != b""
    guest.store["connection"] = 1
    guest.kick()
    assert guest.read("data/x") == b"x" * 1900


def test_a_request_in_single_bytes_over_the_edge() -> None:
    guest = StoreGuest()
    for name in ("req_cons", "req_prod", "rsp_cons", "rsp_prod"):
        guest.store[name] = 0xFFFF_FFFA
    for byte in HEADER.pack(XenStore.READ, 9, 0, 5) + b"name\0":
        assert guest.push(bytes([byte])) == b""
    assert guest.collect() == [(XenStore.READ, 9, 0, b"test")]


def test_replies_that_nobody_reads() -> None:
    """Twenty wait at most, then requests wait in the ring; all come in order later."""
    guest = StoreGuest()
    request = HEADER.pack(XenStore.READ, 0, 0, 7) + b"data/x\0"
    assert guest.write("data/x", b"x" * 500) == OK
    rest = guest.push(
        b"".join(HEADER.pack(XenStore.READ, i, 0, 7) + request[16:] for i in range(99))
    )
    assert rest != b""
    memory = guest.hv.xenstore.tree.memory[guest.domain.id]
    assert memory < 32 << 10
    got = guest.collect()
    while rest:
        rest = guest.push(rest)
        got += guest.collect()
    assert [m[1] for m in got] == list(range(99))
    assert guest.hv.xenstore.tree.memory[guest.domain.id] < memory


def test_floods_of_nodes() -> None:
    guest = StoreGuest()
    tree = guest.hv.xenstore.tree
    answers = [guest.write(f"data/{i % 40}/{i}", b"") for i in range(1100)]
    assert answers[0] == OK
    assert answers[-1] == "ENOSPC"
    assert tree.entries(guest.domain.id) == 1000
    assert guest.write("data/0/0", b"x" * 1000) == OK
    assert guest.write("data/0/0", b"x" * 2048) == "ENOSPC"
    # A listing counts too: names as children of one node.
    assert guest.request(XenStore.RM, "data") == OK
    assert tree.entries(guest.domain.id) < 20
    assert guest.write("attr/" + "/".join("a" * 1000), b"") == "ENOSPC"
    assert guest.write("attr/" + "/".join("a" * 900), b"") == OK
    assert guest.request(XenStore.RM, "attr/a") == OK
    guest.lab.check()


def test_a_transaction_that_wants_too_much() -> None:
    guest = StoreGuest()
    tx = guest.start()
    answers = [guest.write(f"data/{i % 50}/{i}", b"", tx) for i in range(1100)]
    assert answers[-1] == "ENOSPC"
    assert guest.end(tx) in (OK, "ENOMEM")
    big = [guest.start() for _ in range(10)]
    for i, number in enumerate(big):
        for j in range(200):
            guest.write(f"attr/{i}/{j}", b"x" * 1800, number)
    tree = guest.hv.xenstore.tree
    assert tree.memory[guest.domain.id] <= tree.quotas.memory
    for number in big:
        guest.end(number, commit=False)
    assert guest.write("error", b"") == OK


def test_floods_of_watches_and_events() -> None:
    lab = Lab()
    guest, other = StoreGuest(lab), StoreGuest(lab)
    answers = [guest.request(XenStore.WATCH, "data", f"{i}") for i in range(140)]
    assert answers[:129] == [OK] * 129
    assert answers[129:] == ["E2BIG"] * 11
    guest.take_store_events()
    # Nobody reads the events of these writes: equal ones are one, and the rest is bounded.
    tree = lab.hv.xenstore.tree
    for i in range(300):
        lab.hv.xenstore.write(f"/local/domain/{guest.domain.id}/data/{i % 100}", b"")
    assert tree.memory[guest.domain.id] <= tree.quotas.memory + 8192
    assert other.read("name") == b"test"
    events = guest.take_store_events()
    assert len(events) <= 100 * 129 + 1024 // 24  # and what was in the ring already
    assert guest.request(XenStore.RESET_WATCHES, "") == OK


def test_a_token_as_long_as_a_message() -> None:
    guest = StoreGuest()
    assert guest.request(XenStore.WATCH, "data", "t" * 4000) == OK
    assert guest.take_store_events() == [b"data\0" + b"t" * 4000 + b"\0"]
    assert guest.write("data/" + "x" * 200, b"") == OK
    assert guest.take_store_events() == []  # would not fit into a message


def test_a_closed_port() -> None:
    guest = StoreGuest()
    port = guest.info.store_evtchn
    assert guest.op(Hypercall.event_channel_op, EvtchnOp.close, EvtchnClose(port=port)) == 0
    assert guest.send(port) == -22
    guest.hv.xenstore.write(f"/local/domain/{guest.domain.id}/data", "x")
    assert not guest.pending(port)
    guest.lab.check()


def test_noise() -> None:
    """Random bytes in the ring and in the page: no answer but the protocol's, and others live."""
    rng = random.Random(5)
    lab = Lab()
    guest, other = StoreGuest(lab), StoreGuest(lab)
    kinds = [int(kind) for kind in XenStore] + [99]
    for round_ in range(400):
        if round_ % 40 == 39:
            for _ in range(rng.randrange(4)):
                guest.store.page[rng.randrange(2048, 2076)] = rng.randrange(256)
            guest.kick()
            guest.store["connection"] = 1
            guest.kick()
            guest._got = b""
        parts = [
            rng.choice(["data", "data/a", "/", "@x", "", "T", "F", "1", "n1"]) for _ in range(3)
        ]
        payload = "\0".join(parts).encode() + rng.choice([b"", b"\0", b"\0\0"])
        tx = rng.choice([0, 0, 1, 2])
        length = rng.choice([len(payload)] * 9 + [len(payload) + 1])
        guest.push(HEADER.pack(rng.choice(kinds), round_, tx, length) + payload)
        guest.collect()
    assert other.read("name") == b"test"
    tree = lab.hv.xenstore.tree
    assert min(tree.memory.values()) >= 0
    lab.check()
