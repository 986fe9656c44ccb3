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
from typing import TYPE_CHECKING, Final

from emu.units import MFN
from hypervisor.abi import Errno
from hypervisor.domain import Domain
from hypervisor.xenstore.connection import Connection
from hypervisor.xenstore.tree import (
    READ,
    Node,
    Perm,
    Perms,
    Quotas,
    StoreError,
    Tree,
    home_of,
)
from hypervisor.xenstore.watches import Watch, Watches
from hypervisor.xenstore.wire import StorePage

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

TOOLSTACK: Final = 0
_CONSOLE_LIMIT: Final = 1 << 20

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

        def tell(changed: str, _watch: Watch) -> None:
            self._calls.append((callback, changed))

        watch = self.watches.add((TOOLSTACK, 0), path, b"", tell)
        self._calls.append((callback, path))
        self.settle()
        return watch

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
            lambda: hv.machine.coherence.wrote(store),
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
        number, tree = domain.id, self.tree
        home, vm = home_of(number), f"/vm/{_uuid(number)}"
        mine = (Perm(number, 0),)
        shown = (Perm(0, 0), Perm(number, READ))
        console_backend = f"{home_of(0)}/backend/console/{number}/0"
        kib = memory >> 10
        entries: list[tuple[str, str, Perms | None]] = [
            (home, "", shown),
            (vm, "", shown),
            (f"{vm}/name", domain.name, None),
            (f"{vm}/uuid", _uuid(number), None),
            (f"{home}/vm", vm, None),
            (f"{home}/name", domain.name, None),
            (f"{home}/cpu", "", None),
            (f"{home}/cpu/0", "", None),
            (f"{home}/cpu/0/availability", "online", None),
            (f"{home}/memory", "", None),
            (f"{home}/memory/static-max", str(kib), None),
            (f"{home}/memory/target", str(kib), None),
            (f"{home}/memory/videoram", "0", None),
            (f"{home}/device", "", None),
            (f"{home}/device/suspend/event-channel", "", mine),
            (f"{home}/control", "", None),
            (f"{home}/control/shutdown", "", mine),
            (f"{home}/control/feature-poweroff", "", mine),
            (f"{home}/control/feature-reboot", "", mine),
            (f"{home}/control/feature-suspend", "", mine),
            (f"{home}/control/sysrq", "", mine),
            (f"{home}/control/platform-feature-multiprocessor-suspend", "1", None),
            (f"{home}/control/platform-feature-xs_reset_watches", "1", None),
            (f"{home}/data", "", mine),
            (f"{home}/drivers", "", mine),
            (f"{home}/feature", "", mine),
            (f"{home}/attr", "", mine),
            (f"{home}/error", "", mine),
            (f"{home}/domid", str(number), None),
            (f"{home}/store", "", None),
            (f"{home}/store/port", str(store[1]), None),
            (f"{home}/store/ring-ref", str(store[0]), None),
            (f"{home}/console", "", None),
            (f"{home}/console/backend", console_backend, None),
            (f"{home}/console/backend-id", "0", None),
            (f"{home}/console/limit", str(_CONSOLE_LIMIT), None),
            (f"{home}/console/type", "xenconsoled", None),
            (f"{home}/console/output", "pty", None),
            (f"{home}/console/port", str(console[1]), None),
            (f"{home}/console/ring-ref", str(console[0]), None),
            (console_backend, "", shown),
            (f"{console_backend}/frontend", f"{home}/console", None),
            (f"{console_backend}/frontend-id", str(number), None),
            (f"{console_backend}/online", "1", None),
            (f"{console_backend}/state", "1", None),
            (f"{console_backend}/protocol", "vt100", None),
        ]
        for path, value, perms in entries:
            tree.write(TOOLSTACK, None, path, value.encode("utf-8", "replace"))
            if perms is not None:
                tree.set_perms(TOOLSTACK, None, path, perms)
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
        del self.tree.entries[number], self.tree.memory[number]
        self._fire("@releaseDomain", None, False, ())
        self.settle()

    def _remove_quietly(self, path: str) -> None:
        try:
            self.tree.remove(TOOLSTACK, None, path)
        except StoreError as error:
            if error.errno != Errno.ENOENT:
                raise


def _uuid(domid: int) -> str:
    """A machine's n-th domain always has the same UUID."""
    return f"00000000-0000-0000-0000-{domid:012x}"
