"""The machine's XenStore: the tree, who is connected to it, and what the toolstack writes there.

Domains come through their rings (``connection``). The hypervisor's own parts, device backends
among them, are the toolstack, domain 0: ``write``, ``read``, ``list``, ``rm`` and ``watch`` act at
once and may do everything. A callback of ``watch`` runs when the request that caused it is dealt
with, never in the middle of a change, and may use the store as it likes.

Every domain has a home, /local/domain/<id>, and what ``xl`` would have written below it; when it
is destroyed, its home and whatever nodes it owns elsewhere go.

Source: docs/misc/xenstore-paths.pandoc, libxl's create and console code for entries and their
permissions.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from emu.units import MFN
from hypervisor.abi import Errno
from hypervisor.abi import XenStore as Kind
from hypervisor.domain import Domain
from hypervisor.xenstore.connection import Connection
from hypervisor.xenstore.node import (
    READ,
    Node,
    Perm,
    Perms,
    Quotas,
    StoreError,
    home_of,
    parent_of,
)
from hypervisor.xenstore.tree import Tree
from hypervisor.xenstore.watches import Watch, Watches
from hypervisor.xenstore.wire import Message, StorePage

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

TOOLSTACK: Final = 0
_MOST_SHOWN: Final = 200
"""Bytes of a payload that listeners are told of."""
_VM: Final = (("name", ""), ("uuid", ""))
_HOME: Final = (
    ("vm", "", False),
    ("name", "", False),
    ("cpu", "", False),
    ("cpu/0", "", False),
    ("cpu/0/availability", "online", False),
    ("memory", "", False),
    ("memory/static-max", "", False),
    ("memory/target", "", False),
    ("memory/videoram", "0", False),
    ("device", "", False),
    ("device/suspend", "", False),
    ("device/suspend/event-channel", "", True),
    ("control", "", False),
    ("control/shutdown", "", True),
    ("control/feature-poweroff", "", True),
    ("control/feature-reboot", "", True),
    ("control/feature-suspend", "", True),
    ("control/sysrq", "", True),
    ("control/platform-feature-multiprocessor-suspend", "1", False),
    ("control/platform-feature-xs_reset_watches", "1", False),
    ("data", "", True),
    ("drivers", "", True),
    ("feature", "", True),
    ("attr", "", True),
    ("error", "", True),
    ("domid", "", False),
    ("store", "", False),
    ("store/port", "", False),
    ("store/ring-ref", "", False),
    ("console", "", False),
    ("console/backend", "", False),
    ("console/backend-id", "0", False),
    ("console/limit", "1048576", False),
    ("console/type", "xenconsoled", False),
    ("console/output", "pty", False),
    ("console/port", "", False),
    ("console/ring-ref", "", False),
)
"""A domain's home: path, value (where it is the same for all), whether the domain owns the node."""
_CONSOLE: Final = (
    ("frontend", ""),
    ("frontend-id", ""),
    ("online", "1"),
    ("state", "1"),
    ("protocol", "vt100"),
)

Callback = Callable[[str], None]
"""Told the path that changed."""


class XenStore:
    """The store of one machine."""

    def __init__(self, hv: "Hypervisor", quotas: Quotas | None = None) -> None:
        self._hv = hv
        self.watches = Watches()
        self.tree = Tree(quotas or Quotas(), self._fire)
        self._connections: dict[int, Connection] = {}
        self._order = 1
        self._woken: dict[int, Connection] = {}
        self._calls: deque[tuple[Callback, str]] = deque()
        self._settling = False

    # -- for the hypervisor's own parts ----------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """The value at ``path``, None if there is no such node."""
        node = self.tree.find(TOOLSTACK, None, path, READ)
        return None if node is None else node.value

    def list(self, path: str) -> tuple[str, ...]:
        """Names of the children, in order of creation; none if there is no such node."""
        node = self.tree.find(TOOLSTACK, None, path, READ)
        return () if node is None else node.children

    def write(
        self, path: str, value: str | bytes, perms: Iterable[Perm | tuple[int, int]] | None = None
    ) -> None:
        """Store a value, and permissions if given: (domain, access), the first the owner's.

        Raises:
            StoreError: no valid path, or its owner has no room left.
        """
        data = value.encode("utf-8") if isinstance(value, str) else bytes(value)
        self.tree.write(TOOLSTACK, None, path, data)
        if perms is not None:
            self.set_perms(path, perms)
        self.settle()

    def set_perms(self, path: str, perms: Iterable[Perm | tuple[int, int]]) -> None:
        """Say who may do what with a node: (domain, access), the first the owner's.

        Raises:
            StoreError: ENOENT, or its owner has no room left.
        """
        self.tree.set_perms(TOOLSTACK, None, path, tuple(Perm(*perm) for perm in perms))
        self.settle()

    def rm(self, path: str) -> None:
        """Remove a node and all below it; nothing happens if there is none."""
        try:
            self.tree.remove(TOOLSTACK, None, path)
        except StoreError as error:
            if error.errno != Errno.ENOENT:
                raise
        self.settle()

    def watch(self, path: str, callback: Callback) -> Watch:
        """Have ``callback`` told of every change at or below ``path``, and once to begin with.

        Raises:
            StoreError: EINVAL, no path that can be watched.
        """
        Watches.check(path)
        # No closure: what is told is state that a debugger's snapshots keep.
        tell = partial(self._tell, callback)
        watch = self.watches.add((TOOLSTACK, 0), path, b"", tell)
        self._calls.append((callback, path))
        self.settle()
        return watch

    def _tell(self, callback: Callback, changed: str, _watch: Watch) -> None:
        self._calls.append((callback, changed))

    def unwatch(self, watch: Watch) -> None:
        """Give up what ``watch`` returned."""
        self.watches.remove(watch)

    # -- for connections -------------------------------------------------------------------

    def _fire(self, path: str, node: Node | None, exact: bool, before: Perms) -> None:
        self.watches.fire(self.tree, path, node, exact, before)

    def wake(self, connection: Connection) -> None:
        """Something waits for this domain."""
        self._woken[connection.domid] = connection

    def spend(self, units: int) -> None:
        """What a request cost, for the domain that runs."""
        self._hv.spend(units)

    def report(self, domid: int, request: Message, answer: bytes) -> None:
        """Tell those who listen to the machine of a request and what was answered."""
        if self._hv.listeners:
            kind = request.type
            self._hv.emit(
                "xenstore",
                self._hv.domains.get(domid),
                request=Kind(kind).name if kind in Kind._value2member_map_ else str(kind),
                payload=_shown(request.payload),
                transaction=request.tx_id,
                answer=_shown(answer),
            )

    def settle(self) -> None:
        """A request is dealt with: make the callbacks that it caused, send the events.

        Callbacks that change the store cause more, which are dealt with here as well.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while self._calls or self._woken:
                while self._calls:
                    callback, path = self._calls.popleft()
                    callback(path)
                woken, self._woken = self._woken, {}
                for domid in sorted(woken):
                    woken[domid].push()
        finally:
            self._settling = False

    # -- domains ---------------------------------------------------------------------------

    def introduce(self, domain: Domain, store: MFN, store_port: int) -> None:
        """Connect a new domain whose store page is frame ``store``.

        ``store_port`` is the port that it was given to tell of requests.
        """
        hv = self._hv
        page = hv.machine.memory.frame(store)
        link = hv.events.bind_service(domain, store_port)
        connection = Connection(
            self,
            domain.id,
            self._order,
            StorePage(page),
            link.notify,
            partial(hv.machine.coherence.wrote, store),
        )
        link.callback = connection.serve
        self._order += 1
        self._connections[domain.id] = connection
        self._fire("@introduceDomain", None, False, ())
        self.settle()

    def describe(
        self, domain: Domain, memory: int, store: tuple[int, int], console: tuple[int, int]
    ) -> None:
        """Write what the toolstack writes for a domain of ``memory`` bytes.

        ``store`` and ``console``: frame and port of each.
        """
        number = domain.id
        home, vm, uuid = home_of(number), f"/vm/{_uuid(number)}", _uuid(number)
        backends = f"{home_of(0)}/backend/console/{number}"
        mine = (Perm(number, 0),)
        shown = (Perm(0, 0), Perm(number, READ))
        kib = str(memory >> 10)
        entries: list[tuple[str, str, Perms]] = [(vm, "", shown)]
        entries += [(f"{vm}/{key}", value, shown) for key, value in _VM]
        entries.append((home, "", shown))
        values = {
            "vm": vm,
            "name": domain.name,
            "domid": str(number),
            "memory/static-max": kib,
            "memory/target": kib,
            "store/port": str(store[1]),
            "store/ring-ref": str(store[0]),
            "console/backend": f"{backends}/0",
            "console/port": str(console[1]),
            "console/ring-ref": str(console[0]),
        }
        entries += [
            (f"{home}/{key}", values.get(key, value), mine if owned else shown)
            for key, value, owned in _HOME
        ]
        entries += [(backends, "", (Perm(0, 0),)), (f"{backends}/0", "", shown)]
        values = {"frontend": f"{home}/console", "frontend-id": str(number)}
        entries += [
            (f"{backends}/0/{key}", values.get(key, value), shown) for key, value in _CONSOLE
        ]
        values = {f"{vm}/name": domain.name, f"{vm}/uuid": uuid}
        for above in (parent_of(vm), parent_of(home), parent_of(backends)):
            self.tree.mkdir(TOOLSTACK, None, above)
        self.tree.graft(
            [
                (path, values.get(path, value).encode("utf-8", "replace"), perms)
                for path, value, perms in entries
            ]
        )
        self.settle()

    def release(self, domain: Domain) -> None:
        """A domain is destroyed: its connection, its home and its nodes go."""
        connection = self._connections.pop(domain.id, None)
        if connection is None:
            return
        connection.reset()
        self._woken.pop(domain.id, None)
        number = domain.id
        for path in (home_of(number), f"/vm/{_uuid(number)}"):
            self._remove_quietly(path)
        self._remove_quietly(f"{home_of(0)}/backend/console/{number}")
        for path in self.tree.owned_by(number):
            self._remove_quietly(path)
        self.tree.forget(number)
        self._fire("@releaseDomain", None, False, ())
        self.settle()

    def _remove_quietly(self, path: str) -> None:
        try:
            self.tree.remove(TOOLSTACK, None, path)
        except StoreError as error:
            if error.errno != Errno.ENOENT:
                raise


def _shown(payload: bytes) -> str:
    """A payload as text, its strings apart, cut where it gets long."""
    text = payload[:_MOST_SHOWN].decode("latin-1").removesuffix("\0").replace("\0", "|")
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text + ("..." if len(payload) > _MOST_SHOWN else "")


def _uuid(domid: int) -> str:
    """A machine's n-th domain always has the same UUID."""
    return f"00000000-0000-0000-0000-{domid:012x}"
