"""XenStore's tree: nodes with values and permissions, transactions, and what each domain may use.

Nodes are immutable values in one dictionary by path; a change puts a new one in its place. That
makes transactions simple: what a transaction touches is kept as it was (a reference), and at its
end compared: any difference is a conflict and answers EAGAIN.

Invariants: the parent of every node exists and lists it exactly once; ``entries`` and ``memory``
are what each domain's nodes, transactions, watches and events take. Domains other than 0 are held
to ``Quotas``, so a domain can fill up nothing but its own share.

How it fails: ``StoreError`` with Xen's errno, and nothing is changed. (A transaction that fails
for want of room can no longer be committed, as in Xen.)

Source: docs/misc/xenstore.txt; where it leaves off, the behaviour of Xen 4.17's xenstored.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypervisor.abi import Errno
from hypervisor.xenstore.node import (
    OWNER,
    READ,
    WRITE,
    Node,
    Perm,
    Perms,
    Quotas,
    StoreError,
    access_of,
    ancestors,
    join,
    name_of,
    parent_of,
    valid_path,
)

Fire = Callable[[str, "Node | None", bool, "tuple[Perm, ...]"], None]
"""Told of each change: the path, the node as permissions see it, whether only watches of exactly
this path are meant, and permissions that the node had before."""


@dataclass(slots=True)
class _Access:
    """A node in a transaction: as it is there, and as it was outside when first touched."""

    node: Node | None
    before: Node | None
    modified: bool = False


@dataclass(slots=True, eq=False)
class Transaction:
    """Changes of domain ``domid`` that nobody else sees yet. ``events`` are fired at its end."""

    domid: int
    accessed: dict[str, _Access] = field(default_factory=dict)
    events: dict[str, tuple[Node | None, bool, Perms]] = field(default_factory=dict)
    """By path, so that each path is told of once however often it was written."""
    new_entries: int = 0
    memory: int = 0
    failed: bool = False


class Tree:
    """The store. ``fire`` is told of every change as it becomes visible.

    Operations take the domain that asks (0: the toolstack, which may do everything) and its
    transaction, or None.
    """

    def __init__(self, quotas: Quotas, fire: Fire) -> None:
        self.quotas = quotas
        self._owned: dict[int, dict[str, None]] = {}
        """Paths of each domain's nodes."""
        self.memory: Counter[int] = Counter()
        """Bytes by domain."""
        self.work = 0
        """Nodes that were looked at or changed, ever: what requests cost."""
        self._fire = fire
        self._generation = 0
        self._nodes: dict[str, Node] = {}
        for path, children in (
            ("/", ("tool",)),
            ("/tool", ("xenstored",)),
            ("/tool/xenstored", ()),
        ):
            self._put(path, Node(b"", (Perm(0, 0),), children))

    # -- accounts --------------------------------------------------------------------------

    def charge(self, domid: int, amount: int) -> None:
        """Count ``amount`` bytes (negative: fewer) for a domain.

        Raises:
            StoreError: ENOMEM, it has no more.
        """
        if domid and amount > 0 and self.memory[domid] + amount > self.quotas.memory:
            raise StoreError(Errno.ENOMEM)
        self.memory[domid] += amount

    def entries(self, domid: int) -> int:
        """How many nodes a domain owns."""
        return len(self._owned.get(domid, ()))

    def _put(self, path: str, node: Node) -> None:
        """Make ``node`` what is at ``path``, for everybody."""
        owner = node.perms[0].domid
        old = self._nodes.get(path)
        if old is not None:
            self.memory[old.owner] -= old.size + len(path)
            if old.owner != owner:
                del self._owned[old.owner][path]
        self.memory[owner] += node.size + len(path)
        self._owned.setdefault(owner, {})[path] = None
        self._generation += 1
        self._nodes[path] = Node(node.value, node.perms, node.children, self._generation)

    def _delete(self, path: str) -> None:
        old = self._nodes.pop(path)
        self.memory[old.owner] -= old.size + len(path)
        del self._owned[old.owner][path]

    # -- nodes, in or out of a transaction -------------------------------------------------

    def _get(self, path: str, tx: Transaction | None) -> Node | None:
        self.work += 1
        if tx is None:
            return self._nodes.get(path)
        return self._touch(path, tx).node

    def _touch(self, path: str, tx: Transaction) -> _Access:
        access = tx.accessed.get(path)
        if access is None:
            node = self._nodes.get(path)
            if tx.domid and len(tx.accessed) >= self.quotas.transaction_nodes:
                tx.failed = True
                raise StoreError(Errno.ENOSPC)
            self._charge_tx(tx, len(path) + (node.size if node else 0))
            access = tx.accessed[path] = _Access(node, node)
        return access

    def _charge_tx(self, tx: Transaction, amount: int) -> None:
        try:
            self.charge(tx.domid, amount)
        except StoreError:
            tx.failed = True
            raise
        tx.memory += amount

    def _set(self, path: str, node: Node, tx: Transaction | None) -> None:
        """Put a node in its place; all checks were made, but for a transaction's memory."""
        self.work += 1
        if tx is None:
            self._put(path, node)
            return
        access = self._touch(path, tx)
        self._charge_tx(tx, node.size - (access.node.size if access.node else 0))
        access.node, access.modified = node, True

    def _unset(self, path: str, tx: Transaction | None) -> None:
        self.work += 1
        if tx is None:
            self._delete(path)
            return
        access = self._touch(path, tx)
        if access.node is not None:
            self._charge_tx(tx, -access.node.size)
        access.node, access.modified = None, True

    def _changed(
        self,
        path: str,
        node: Node | None,
        tx: Transaction | None,
        *,
        exact: bool = False,
        before: Perms = (),
    ) -> None:
        if tx is None:
            self._fire(path, node, exact, before)
        else:
            known = tx.events.get(path)
            if known is None:
                self._charge_tx(tx, len(path))
            else:
                exact, before = exact and known[1], known[2] or before
            tx.events[path] = node, exact, before

    def _check_size(self, domid: int, node: Node) -> None:
        if domid and node.size >= self.quotas.entry_size:
            raise StoreError(Errno.ENOSPC)

    def _check_room(self, domid: int, tx: Transaction | None, amount: int) -> None:
        """See that a domain may use ``amount`` more bytes (a transaction finds out by itself)."""
        if tx is None and domid and amount > 0:
            self.charge(domid, amount)
            self.memory[domid] -= amount

    # -- permissions -----------------------------------------------------------------------

    def find(self, domid: int, tx: Transaction | None, path: str, want: int) -> Node | None:
        """The node at ``path`` for a domain that wants READ, WRITE or OWNER of it, or None.

        Raises:
            StoreError: EINVAL for a path that is none; EACCES if the domain may not do that, or
                may not know whether there is such a node.
        """
        if not valid_path(path):
            raise StoreError(Errno.EINVAL)
        node = self._get(path, tx)
        if node is not None:
            if access_of(domid, node.perms) & want != want:
                raise StoreError(Errno.EACCES)
            return node
        for above in ancestors(parent_of(path)):
            parent = self._get(above, tx)
            if parent is not None:
                if not access_of(domid, parent.perms) & want:
                    raise StoreError(Errno.EACCES)
                return None
        raise StoreError(Errno.EIO)  # there is always a root

    def _existing(self, domid: int, tx: Transaction | None, path: str, want: int) -> Node:
        node = self.find(domid, tx, path, want)
        if node is None:
            raise StoreError(Errno.ENOENT)
        return node

    def readable(self, domid: int, path: str, node: Node | None, before: Perms) -> bool:
        """True if a domain may learn that ``node`` at ``path`` changed: it can read it or its
        parent, or could before."""
        if not domid or (before and access_of(domid, before) & READ):
            return True
        if node is None:
            node = self._nodes.get(path)
        if node is not None and access_of(domid, node.perms) & READ:
            return True
        parent = self._nodes.get(parent_of(path))
        return parent is not None and bool(access_of(domid, parent.perms) & READ)

    # -- operations ------------------------------------------------------------------------

    def read(self, domid: int, tx: Transaction | None, path: str) -> Node:
        """The node: its value, children, generation.

        Raises:
            StoreError: as ``find``, and ENOENT.
        """
        return self._existing(domid, tx, path, READ)

    def write(self, domid: int, tx: Transaction | None, path: str, value: bytes) -> None:
        """Store a value, creating the node and its parents if need be.

        Raises:
            StoreError: as ``find``; ENOSPC or ENOMEM beyond the domain's quotas.
        """
        node = self.find(domid, tx, path, WRITE)
        if node is None:
            self._create(domid, tx, path, value)
            return
        new = replace(node, value=value)
        self._check_size(domid, new)
        self._check_room(node.owner, tx, len(value) - len(node.value))
        self._set(path, new, tx)
        self._changed(path, new, tx)

    def mkdir(self, domid: int, tx: Transaction | None, path: str) -> None:
        """See that a node exists.

        Raises:
            StoreError: as ``write``.
        """
        if self.find(domid, tx, path, WRITE) is None:
            self._create(domid, tx, path, b"")

    def _create(self, domid: int, tx: Transaction | None, path: str, value: bytes) -> None:
        missing: list[str] = []
        for above in ancestors(path):
            parent = self._get(above, tx)
            if parent is not None:
                break
            missing.append(above)
        else:
            raise StoreError(Errno.EIO)
        missing.reverse()
        # What a domain makes is its own; else as the parent's.
        perms = parent.perms
        if domid:
            perms = (Perm(domid, perms[0].access), *perms[1:])
        changes = [(above, replace(parent, children=(*parent.children, name_of(missing[0]))))]
        for here, below in zip(missing, [*missing[1:], ""], strict=True):
            children = (name_of(below),) if below else ()
            changes.append((here, Node(b"" if below else value, perms, children)))
        for _, node in changes:
            self._check_size(domid, node)
        if domid:
            pending = tx.new_entries if tx is not None else 0
            if self.entries(domid) + pending + len(missing) > self.quotas.entries:
                raise StoreError(Errno.ENOSPC)
        new_size = sum(len(here) + node.size for here, node in changes[1:])
        self._check_room(perms[0].domid, tx, new_size)
        self._check_room(parent.owner, tx, len(name_of(missing[0])) + 1)
        for here, node in changes:
            self._set(here, node, tx)
        if tx is not None:
            tx.new_entries += len(missing)
        self._changed(path, changes[-1][1], tx)

    def graft(self, entries: list[tuple[str, bytes, Perms]]) -> None:
        """Put many new nodes in at once, for the toolstack, parents before their children.

        None of them exists; the parents of the topmost do.

        Raises:
            StoreError: ENOENT, a parent is missing.
        """
        children: dict[str, list[str]] = {path: [] for path, _, _ in entries}
        for path, _, _ in entries:
            above = parent_of(path)
            if above not in children:
                parent = self._nodes.get(above)
                if parent is None:
                    raise StoreError(Errno.ENOENT)
                self._put(above, replace(parent, children=(*parent.children, name_of(path))))
            else:
                children[above].append(name_of(path))
        for path, value, perms in entries:
            self._put(path, Node(value, perms, tuple(children[path])))
        for path, _, _ in entries:
            self._fire(path, self._nodes[path], False, ())

    def remove(self, domid: int, tx: Transaction | None, path: str) -> None:
        """Delete a node and everything below it; it need not exist, but its parent must.

        Raises:
            StoreError: as ``find``; ENOENT if there is no parent, EINVAL for the root.
        """
        node = self.find(domid, tx, path, WRITE)
        above = parent_of(path)
        parent = self._get(above, tx)
        if node is None:
            if parent is None:
                raise StoreError(Errno.ENOENT)
            return
        if path == "/" or parent is None:
            raise StoreError(Errno.EINVAL)
        doomed: list[tuple[str, Node]] = []
        todo = [path]
        while todo:
            here = todo.pop()
            found = self._get(here, tx)
            if found is None:
                raise StoreError(Errno.EIO)
            doomed.append((here, found))
            todo.extend(join(here, name) for name in reversed(found.children))
        self._changed(path, node, tx)
        for here, found in reversed(doomed):
            self._changed(here, found, tx, exact=True)
            self._unset(here, tx)
            if tx is not None and found.owner == domid:
                tx.new_entries -= 1
        name = name_of(path)
        left = tuple(child for child in parent.children if child != name)
        self._set(above, replace(parent, children=left), tx)

    def set_perms(self, domid: int, tx: Transaction | None, path: str, perms: Perms) -> None:
        """Change a node's permissions (not empty), which its owner may do.

        Raises:
            StoreError: as ``find``; ENOENT; ENOSPC for too many; EPERM for another owner.
        """
        if domid and len(perms) > self.quotas.perms:
            raise StoreError(Errno.ENOSPC)
        node = self._existing(domid, tx, path, WRITE | OWNER)
        if domid and perms[0].domid != node.owner:
            raise StoreError(Errno.EPERM)
        new = replace(node, perms=perms)
        self._check_size(domid, new)
        kept = node.size + len(path) if new.owner == node.owner else 0
        self._check_room(new.owner, tx, new.size + len(path) - kept)
        self._set(path, new, tx)
        self._changed(path, new, tx, before=node.perms)

    # -- transactions ----------------------------------------------------------------------

    def drop(self, tx: Transaction) -> None:
        """Forget a transaction."""
        self.memory[tx.domid] -= tx.memory
        tx.memory = 0

    def commit(self, tx: Transaction) -> None:
        """Make a transaction's changes everybody's; it is over whether or not that succeeds.

        Raises:
            StoreError: EAGAIN if anything that it touched has changed since; ENOMEM if it failed
                before; ENOSPC or ENOMEM beyond somebody's quotas.
        """
        self.drop(tx)
        if tx.failed:
            raise StoreError(Errno.ENOMEM)
        entries: Counter[int] = Counter()
        memory: Counter[int] = Counter()
        for path, access in tx.accessed.items():
            self.work += 1
            if self._nodes.get(path) is not access.before:
                raise StoreError(Errno.EAGAIN)
            if access.modified:
                for node, sign in ((access.before, -1), (access.node, 1)):
                    if node is not None:
                        entries[node.owner] += sign
                        memory[node.owner] += sign * (node.size + len(path))
        for domid in sorted(entries):
            more = entries[domid]
            if domid and more > 0 and self.entries(domid) + more > self.quotas.entries:
                raise StoreError(Errno.ENOSPC)
        for domid in sorted(memory):
            self._check_room(domid, None, memory[domid])
        for path, access in tx.accessed.items():
            if access.modified:
                if access.node is not None:
                    self._put(path, access.node)
                elif access.before is not None:
                    self._delete(path)
        for path, (changed, exact, before) in tx.events.items():
            self._fire(path, changed, exact, before)

    # -- domains that are gone -------------------------------------------------------------

    def owned_by(self, domid: int) -> list[str]:
        """Paths of a domain's nodes, parents first."""
        return sorted(self._owned.get(domid, ()))

    def forget(self, domid: int) -> None:
        """A domain is gone, and its nodes are: close its accounts."""
        self._owned.pop(domid, None)
        del self.memory[domid]
