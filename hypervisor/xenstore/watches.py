"""Who is told of which changes.

A watch is on a path and is told of changes at it and below. Watches are found by the paths of the
change's ancestors, so the cost of a change does not grow with the number of watches elsewhere.
Events go out in the order in which their watchers connected and set their watches.

Source: docs/misc/xenstore.txt; special names (``@releaseDomain``) only go to the toolstack, as
xenstored's default permissions for them say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypervisor.abi import Errno
from hypervisor.xenstore.node import (
    REL_PATH_MAX,
    Node,
    Perms,
    StoreError,
    ancestors,
    valid_path,
)
from hypervisor.xenstore.tree import Tree

SPECIAL: Final = "@"


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One watch of domain ``domid``. ``tell`` gets the path of the change and the watch."""

    domid: int
    path: str
    token: bytes
    order: tuple[int, int]
    tell: Callable[[str, "Watch"], None]
    relative: bool = False
    """Paths are told relative to the domain's home, since that is how the watch was set."""


class Watches:
    """All watches of the store."""

    def __init__(self) -> None:
        self._at: dict[str, list[Watch]] = {}
        self._next = 0
        self.count = 0
        """Watches in all."""

    @staticmethod
    def check(path: str) -> None:
        """See that one can watch ``path``.

        Raises:
            StoreError: EINVAL.
        """
        if path.startswith(SPECIAL):
            if len(path) > REL_PATH_MAX:
                raise StoreError(Errno.EINVAL)
        elif not valid_path(path):
            raise StoreError(Errno.EINVAL)

    def add(
        self,
        who: tuple[int, int],
        path: str,
        token: bytes,
        tell: Callable[[str, Watch], None],
        relative: bool = False,
    ) -> Watch:
        """Set a watch; ``who``: the watcher's domain and its place in the order of watchers."""
        self._next += 1
        watch = Watch(who[0], path, token, (who[1], self._next), tell, relative)
        self._at.setdefault(path, []).append(watch)
        self.count += 1
        return watch

    def remove(self, watch: Watch) -> None:
        """Give a watch up."""
        at = self._at[watch.path]
        at.remove(watch)
        self.count -= 1
        if not at:
            del self._at[watch.path]

    def fire(self, tree: Tree, path: str, node: Node | None, exact: bool, before: Perms) -> None:
        """Tell of a change at ``path`` those who may know (see ``Tree.readable``)."""
        found: list[Watch] = []
        if self._at:
            for above in (path,) if exact or path.startswith(SPECIAL) else ancestors(path):
                found.extend(self._at.get(above, ()))
        if not found:
            return
        found.sort(key=lambda watch: watch.order)
        tree.work += len(found)
        for watch in found:
            special = path.startswith(SPECIAL)
            if not watch.domid or (not special and tree.readable(watch.domid, path, node, before)):
                watch.tell(path, watch)
