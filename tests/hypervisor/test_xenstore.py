"""XenStore by its ring: requests, transactions, watches, and what the toolstack wrote."""

from emu.units import PAGE_SHIFT
from hypervisor.abi import EvtchnOp, EvtchnStat, EvtchnStatus, Hypercall, MmuExt, XenStore
from hypervisor.domain import Exit
from tests.hypervisor.kernels import SELF, Lab
from tests.hypervisor.xenstore_guest import StoreGuest

OK = b"OK\0"


def test_what_the_toolstack_wrote() -> None:
    guest = StoreGuest()
    home = f"/local/domain/{guest.domain.id}"
    assert guest.read("name") == b"test"
    assert guest.read(f"{home}/domid") == str(guest.domain.id).encode()
    assert guest.read("store/port") == str(guest.info.store_evtchn).encode()
    assert guest.read("store/ring-ref") == str(guest.store_mfn).encode()
    assert guest.read("console/port") == str(guest.info.console.domU.evtchn).encode()
    assert guest.read("console/ring-ref") == str(guest.console_mfn).encode()
    assert guest.read("memory/target") == b"1024"
    assert guest.read("cpu/0/availability") == b"online"
    vm = guest.read("vm")
    assert isinstance(vm, bytes)
    assert guest.read(f"{vm.decode()}/name") == b"test"
    assert guest.request(XenStore.DIRECTORY, "device") == b"suspend\0"
    assert guest.request(XenStore.DIRECTORY, "device/vbd") == "ENOENT"
    assert guest.request(XenStore.GET_PERMS, "") == "EINVAL"
    assert guest.request(XenStore.GET_PERMS, "data") == b"n%d\0" % guest.domain.id
    assert guest.request(XenStore.GET_PERMS, home) == b"n0\0r%d\0" % guest.domain.id
    assert guest.request(XenStore.GET_DOMAIN_PATH, "77") == b"/local/domain/77\0"
    # What is the toolstack's it may read and not change.
    assert guest.write("name", b"other") == "EACCES"
    assert guest.write("new", b"") == "EACCES"
    assert guest.read("/tool") == "EACCES"
    assert guest.read("/tool/nothing") == "EACCES"
    assert guest.request(XenStore.RM, "device") == "EACCES"
    guest.lab.check()


def test_listeners_are_told() -> None:
    guest = StoreGuest()
    told: list[dict[str, object]] = []

    def note(kind: str, _domain: object, details: dict[str, object]) -> None:
        if kind == "xenstore":
            told.append(details)

    guest.hv.listen(note)
    guest.write("data/x", b"y")
    guest.read("data/z")
    guest.read("\x1b[31m")
    guest.ask(77, b"")
    assert [(d["request"], d["payload"], d["answer"]) for d in told] == [
        ("WRITE", "data/x|y", "OK"),
        ("READ", "data/z", "ENOENT"),
        ("READ", "\\x1b[31m", "EINVAL"),
        ("77", "", "ENOSYS"),
    ]


def test_values_and_children() -> None:
    guest = StoreGuest()
    assert guest.write("data/a/b", b"x\0y") == OK
    assert guest.read("data/a/b") == b"x\0y"
    assert guest.read("data/a") == b""
    assert guest.request(XenStore.MKDIR, "data/c") == OK
    assert guest.request(XenStore.MKDIR, "data/a/b") == OK
    assert guest.read("data/a/b") == b"x\0y"
    assert guest.request(XenStore.DIRECTORY, "data") == b"a\0c\0"
    assert guest.request(XenStore.RM, "data/nothing") == OK
    assert guest.request(XenStore.RM, "data/nothing/below") == "ENOENT"
    assert guest.request(XenStore.RM, "data/a") == OK
    assert guest.read("data/a/b") == "ENOENT"
    assert guest.request(XenStore.DIRECTORY, "data") == b"c\0"
    assert guest.request(XenStore.RM, "/") == "EACCES"


def test_directory_in_parts() -> None:
    guest = StoreGuest()
    for i in range(3):
        assert guest.request(XenStore.MKDIR, f"data/n{i}") == OK
    part = guest.request(XenStore.DIRECTORY_PART, "data", "3")
    assert isinstance(part, bytes)
    generation, _, rest = part.partition(b"\0")
    assert generation.isdigit()
    assert rest == b"n1\0n2\0\0"
    assert guest.request(XenStore.DIRECTORY_PART, "data", "9") == generation + b"\0\0"
    assert guest.request(XenStore.DIRECTORY_PART, "data") == "EINVAL"
    # The toolstack has no quota: a listing can be longer than a message.
    for i in range(600):
        guest.hv.xenstore.write(f"/local/domain/{guest.domain.id}/device/vif/{i:08}", "")
    assert guest.request(XenStore.DIRECTORY, "device/vif") == "E2BIG"
    names, offset = b"", 0
    while not names.endswith(b"\0\0"):
        part = guest.request(XenStore.DIRECTORY_PART, "device/vif", str(offset))
        assert isinstance(part, bytes)
        names += part.partition(b"\0")[2]
        offset = len(names)
    assert names.split(b"\0")[:-2] == [b"%08d" % i for i in range(600)]


def test_permissions() -> None:
    lab = Lab()
    one, two = StoreGuest(lab), StoreGuest(lab)
    me, you = one.domain.id, two.domain.id
    path = f"/local/domain/{me}/data/x"
    assert one.write("data/x", b"secret") == OK
    assert two.read(path) == "EACCES"
    assert one.request(XenStore.SET_PERMS, "data/x", f"n{me}", f"r{you}") == OK
    assert two.read(path) == b"secret"
    assert two.write(path, b"mine") == "EACCES"
    assert two.request(XenStore.SET_PERMS, path, f"n{you}") == "EACCES"
    assert one.request(XenStore.SET_PERMS, "data/x", f"b{me}") == OK
    assert two.write(path, b"yours") == OK
    assert two.request(XenStore.SET_PERMS, path, f"n{you}") == "EACCES"
    assert one.request(XenStore.SET_PERMS, "data/x", f"n{you}") == "EPERM"
    assert one.request(XenStore.SET_PERMS, "data/x") == "EINVAL"
    assert one.request(XenStore.SET_PERMS, "data/x", "q1") == "EINVAL"
    assert one.request(XenStore.SET_PERMS, "data/x", "r") == "EINVAL"
    assert one.request(XenStore.SET_PERMS, "data/x", *[f"n{me}"] * 6) == "ENOSPC"
    assert one.request(XenStore.SET_PERMS, "data/none", f"n{me}") == "ENOENT"
    assert one.request(XenStore.SET_PERMS, "@releaseDomain", f"n{me}") == "EACCES"
    # What a domain makes in another's place is its own.
    assert one.request(XenStore.SET_PERMS, "data", f"b{me}") == OK
    assert two.write(f"/local/domain/{me}/data/y", b"") == OK
    assert two.request(XenStore.GET_PERMS, f"/local/domain/{me}/data/y") == b"b%d\0" % you


def test_paths_that_are_none() -> None:
    guest = StoreGuest()
    for path in ("data/", "data//x", "data/é", "data/ x", "/local/", "", "//"):
        assert guest.write(path, b"") == "EINVAL", path
    deep = "data/" + "x" * 2000
    assert guest.write(deep, b"") in (OK, "ENOSPC")
    assert guest.read("data/" + "x" * 2044) == "EINVAL"
    assert guest.read("/" + "x" * 3072) == "EINVAL"
    assert guest.ask(XenStore.READ, b"data")[3] == b"EINVAL\0"
    assert guest.ask(XenStore.READ, b"data\0data\0")[3] == b"EINVAL\0"
    assert guest.ask(XenStore.READ, b"")[3] == b"EINVAL\0"
    assert guest.ask(XenStore.WRITE, b"data")[3] == b"EINVAL\0"


def test_what_is_not_for_guests() -> None:
    guest = StoreGuest()
    for kind in (
        XenStore.CONTROL,
        XenStore.INTRODUCE,
        XenStore.RELEASE,
        XenStore.RESUME,
        XenStore.SET_TARGET,
        XenStore.IS_DOMAIN_INTRODUCED,
    ):
        assert guest.request(kind, "1") == "EACCES"
    for number in (XenStore.WATCH_EVENT, XenStore.ERROR, 20, 23, 0xFFFF, 0xFFFF_FFFF):
        assert guest.ask(number, b"x\0")[3] == b"ENOSYS\0"


# -- transactions ------------------------------------------------------------------------------


def test_a_transaction_is_seen_when_it_ends() -> None:
    guest = StoreGuest()
    tx = guest.start()
    assert guest.write("data/x", b"1", tx) == OK
    assert guest.read("data/x", tx) == b"1"
    assert guest.read("data/x") == "ENOENT"
    assert guest.end(tx) == OK
    assert guest.read("data/x") == b"1"
    assert guest.end(tx) == "ENOENT"
    tx = guest.start()
    assert guest.request(XenStore.RM, "data/x", tx=tx) == OK
    assert guest.end(tx, commit=False) == OK
    assert guest.read("data/x") == b"1"
    tx = guest.start()
    assert guest.request(XenStore.RM, "data/x", tx=tx) == OK
    assert guest.read("data/x", tx) == "ENOENT"
    assert guest.write("data/x", b"2", tx) == OK
    assert guest.request(XenStore.DIRECTORY, "data", tx=tx) == b"x\0"
    assert guest.end(tx) == OK
    assert guest.read("data/x") == b"2"


def test_conflicts() -> None:
    lab = Lab()
    one, two = StoreGuest(lab), StoreGuest(lab)
    me = one.domain.id
    assert one.request(XenStore.SET_PERMS, "data", f"b{me}") == OK
    path = f"/local/domain/{me}/data/x"
    tx = one.start()
    assert one.read("data/x", tx) == "ENOENT"
    assert two.write(path, b"2") == OK
    assert one.write("data/y", b"1", tx) == OK
    assert one.end(tx) == "EAGAIN"
    assert one.read("data/y") == "ENOENT"
    # What it did not touch does not matter.
    tx = one.start()
    assert one.write("attr/y", b"1", tx) == OK
    assert two.write(path, b"3") == OK
    assert one.end(tx) == OK
    # Two that read what the other writes: the second loses.
    first, second = one.start(), one.start()
    assert one.read("data/x", first) == b"3"
    assert one.read("attr/y", second) == b"1"
    assert one.write("attr/y", b"A", first) == OK
    assert one.write("data/x", b"B", second) == OK
    assert one.end(first) == OK
    assert one.end(second) == "EAGAIN"
    assert (one.read("data/x"), one.read("attr/y")) == (b"3", b"A")


def test_transactions_that_are_none() -> None:
    guest = StoreGuest()
    assert guest.read("data", tx=5) == "ENOENT"
    assert guest.end(0) == "ENOENT"
    tx = guest.start()
    assert guest.request(XenStore.TRANSACTION_START, "", tx=tx) == "EBUSY"
    assert guest.request(XenStore.TRANSACTION_END, "X", tx=tx) == "EINVAL"
    for _ in range(10):
        guest.start()
    assert guest.request(XenStore.TRANSACTION_START, "") == "ENOSPC"
    assert guest.request(XenStore.RESET_WATCHES, "") == OK
    assert guest.start() > tx


# -- watches -----------------------------------------------------------------------------------


def test_watches() -> None:
    guest = StoreGuest()
    home = f"/local/domain/{guest.domain.id}"
    assert guest.request(XenStore.WATCH, "data", "t1") == OK
    assert guest.take_store_events() == [b"data\0t1\0"]
    assert guest.request(XenStore.WATCH, f"{home}/data/a", "t2") == OK
    assert guest.take_store_events() == [f"{home}/data/a\0t2\0".encode()]
    assert guest.request(XenStore.WATCH, "data", "t1") == "EEXIST"
    assert guest.request(XenStore.WATCH, "data/", "t") == "EINVAL"
    assert guest.request(XenStore.WATCH, "data") == "EINVAL"
    assert guest.write("data/a/b", b"") == OK
    assert guest.take_store_events() == [b"data/a/b\0t1\0", f"{home}/data/a/b\0t2\0".encode()]
    assert guest.write("database", b"") == "EACCES"
    assert guest.write("attr/x", b"") == OK
    assert guest.take_store_events() == []
    assert guest.request(XenStore.RM, "data") == OK
    events = guest.take_store_events()
    assert events == [b"data\0t1\0", f"{home}/data/a\0t2\0".encode()]


def test_watches_of_what_goes() -> None:
    guest = StoreGuest()
    assert guest.write("data/a/b", b"") == OK
    for path in ("data", "data/a", "data/a/b"):
        assert guest.request(XenStore.WATCH, path, "t") == OK
    guest.take_store_events()
    assert guest.request(XenStore.RM, "data/a") == OK
    # A watch of "data" hears of what was removed; those below hear of themselves.
    assert sorted(set(guest.take_store_events())) == [b"data/a\0t\0", b"data/a/b\0t\0"]
    assert guest.request(XenStore.UNWATCH, "data", "t") == OK
    assert guest.request(XenStore.UNWATCH, "data", "t") == "ENOENT"
    assert guest.request(XenStore.RESET_WATCHES, "") == OK
    assert guest.write("data/a", b"") == OK
    assert guest.take_store_events() == []


def test_transactions_tell_when_they_end() -> None:
    guest = StoreGuest()
    assert guest.request(XenStore.WATCH, "data", "t") == OK
    guest.take_store_events()
    tx = guest.start()
    assert guest.write("data/x", b"", tx) == OK
    assert guest.write("data/y", b"", tx) == OK
    assert guest.take_store_events() == []
    assert guest.end(tx) == OK
    assert guest.take_store_events() == [b"data/x\0t\0", b"data/y\0t\0"]
    tx = guest.start()
    assert guest.write("data/x", b"1", tx) == OK
    assert guest.end(tx, commit=False) == OK
    assert guest.take_store_events() == []


def test_only_those_who_may_know_are_told() -> None:
    lab = Lab()
    one, two = StoreGuest(lab), StoreGuest(lab)
    path = f"/local/domain/{one.domain.id}/data"
    assert two.request(XenStore.WATCH, path, "t") == OK
    assert two.request(XenStore.WATCH, "@releaseDomain", "r") == OK
    two.take_store_events()
    assert one.write("data/x", b"") == OK
    assert two.take_store_events() == []
    perms = (f"n{one.domain.id}", f"r{two.domain.id}")
    assert one.request(XenStore.SET_PERMS, "data/x", *perms) == OK
    assert two.take_store_events() == [f"{path}/x\0t\0".encode()]
    assert two.pending(two.info.store_evtchn)
    lab.hv.end(one.domain, Exit("destroyed"))
    assert b"@releaseDomain\0r\0" not in two.take_store_events()


# -- backends ----------------------------------------------------------------------------------


def test_backends_use_it_too() -> None:
    guest = StoreGuest()
    store = guest.hv.xenstore
    home = f"/local/domain/{guest.domain.id}"
    told: list[str] = []

    def changed(path: str) -> None:
        told.append(path)
        if path.endswith("/state"):
            store.write("/local/domain/0/backend/vbd/1/51712/state", "4")

    watch = store.watch(f"{home}/device/vbd", changed)
    assert told == [f"{home}/device/vbd"]
    mine = [(guest.domain.id, 0), (0, 1)]
    store.write(f"{home}/device/vbd/51712", "", mine)
    assert guest.request(XenStore.DIRECTORY, "device/vbd") == b"51712\0"
    assert guest.request(XenStore.WATCH, "device/vbd/51712/state", "t") == OK
    guest.take_store_events()
    assert guest.write("device/vbd/51712/state", b"3") == OK
    assert told[-1] == f"{home}/device/vbd/51712/state"
    assert store.read("/local/domain/0/backend/vbd/1/51712/state") == b"4"
    guest.take_store_events()
    guest.take_events()
    store.write(f"{home}/device/vbd/51712/state", "6")
    assert guest.pending(guest.info.store_evtchn)
    assert guest.take_store_events() == [b"device/vbd/51712/state\0t\0"]
    assert store.list(f"{home}/device/vbd") == ("51712",)
    assert store.read("/nothing") is None
    store.unwatch(watch)
    store.rm(f"{home}/device/vbd")
    store.rm(f"{home}/device/vbd")
    assert store.list(f"{home}/device/vbd") == ()


# -- lives -------------------------------------------------------------------------------------


def test_a_domain_that_ends_leaves_nothing() -> None:
    lab = Lab()
    one, two = StoreGuest(lab), StoreGuest(lab)
    store = lab.hv.xenstore
    before = set(store.tree._nodes)
    third = StoreGuest(lab)
    assert one.request(XenStore.SET_PERMS, "data", f"b{one.domain.id}") == OK
    assert third.write(f"/local/domain/{one.domain.id}/data/x", b"mine") == OK
    assert third.request(XenStore.WATCH, "data", "t") == OK
    third.start()
    lab.hv.end(third.domain, Exit("destroyed"))
    lab.hv.reap()
    assert set(store.tree._nodes) == before
    assert store.tree.entries(third.domain.id) == 0
    assert one.read("data/x") == "ENOENT"
    assert store.tree.memory[third.domain.id] == 0
    assert store.watches.count == 0
    assert two.read("name") == b"test"
    lab.check()
    for guest in (one, two):
        lab.hv.end(guest.domain, Exit("destroyed"))
        lab.hv.reap()
    lab.check_empty()


def test_the_port_is_domain_0s() -> None:
    guest = StoreGuest()
    status = EvtchnStatus(dom=SELF, port=guest.info.store_evtchn)
    assert guest.op(Hypercall.event_channel_op, EvtchnOp.status, status) == 0
    assert status.status == EvtchnStat.interdomain
    assert status.u.interdomain.dom == 0


def test_the_page_stays_what_it_is() -> None:
    """The store writes into it: it may not become a page table meanwhile."""
    guest = StoreGuest()
    at = guest.put(
        MmuExt.PIN_L1_TABLE.to_bytes(8, "little") + guest.store_mfn.to_bytes(8, "little")
    )
    assert guest.call(Hypercall.mmuext_op, at, 1, 0, SELF) != 0
    base = guest.image.virt_base
    p2m = guest.info.store_mfn
    pfn = guest.hv.frames.m2p(p2m)
    assert guest.call(Hypercall.make_ro_and_share, base + (pfn << PAGE_SHIFT), 0, 0) == -16
    guest.lab.check()
