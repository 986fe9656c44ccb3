"""XenStore's nodes: paths, permissions, and what a domain may use.

A node is a value: it never changes, another takes its place. Its permissions are a list whose
first entry names the owner and says what everybody else may do; the rest are exceptions.

Source: docs/misc/xenstore.txt; Xen 4.17's xenstored for what counts as how much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hypervisor.abi import Errno

ABS_PATH_MAX: Final = 3072
"""Bytes of a path."""
REL_PATH_MAX: Final = 2048
"""Bytes of a path below a domain's home, and of a special watch."""
_ALLOWED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@+")
_HOMES: Final = "/local/domain/"
_HEADER_SIZE: Final = 24
_PERM_SIZE: Final = 8
"""Bytes that xenstored counts for a node, and for each of its permissions."""

READ: Final = 1
WRITE: Final = 2
OWNER: Final = 4
_ALL: Final = READ | WRITE | OWNER
_LETTERS: Final = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}
_LETTER_OF: Final = {mask: letter for letter, mask in _LETTERS.items()}


class StoreError(Exception):
    """A request is refused with ``errno``."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a domain other than 0 may use; xenstored's defaults. Sizes in bytes."""

    entries: int = 1000
    entry_size: int = 2048
    watches: int = 128
    transactions: int = 10
    transaction_nodes: int = 1024
    perms: int = 5
    outstanding: int = 20
    """Replies that were not read."""
    memory: int = 2 << 20


class Perm(NamedTuple):
    """One permission. ``access``: READ, WRITE or both, or 0."""

    domid: int
    access: int

    def __str__(self) -> str:
        return f"{_LETTER_OF[self.access]}{self.domid}"


Perms = tuple[Perm, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One node as it is at a ``generation``."""

    value: bytes
    perms: Perms
    children: tuple[str, ...] = ()
    generation: int = 0

    @property
    def owner(self) -> int:
        """Domain that owns it."""
        return self.perms[0].domid

    @property
    def listing(self) -> bytes:
        """The children's names, each ended by a NUL."""
        return "".join(f"{name}\0" for name in self.children).encode("ascii")

    @property
    def size(self) -> int:
        """Bytes, as xenstored counts them."""
        names = sum(map(len, self.children)) + len(self.children)
        return _HEADER_SIZE + _PERM_SIZE * len(self.perms) + len(self.value) + names


def parse_perms(texts: list[str]) -> Perms:
    """``n0``, ``r3`` and the like.

    Raises:
        StoreError: EINVAL, one of them is no permission.
    """
    perms = []
    for text in texts:
        letter, number = text[:1], text[1:]
        if letter not in _LETTERS or not (number.isascii() and number.isdigit()):
            raise StoreError(Errno.EINVAL)
        if len(number) > 10 or int(number) > 0xFFFF:
            raise StoreError(Errno.EINVAL)
        perms.append(Perm(int(number), _LETTERS[letter]))
    return tuple(perms)


def access_of(domid: int, perms: Perms) -> int:
    """What a domain may do with a node: READ, WRITE, OWNER."""
    if domid in (0, perms[0].domid):
        return _ALL
    for perm in perms[1:]:
        if perm.domid == domid:
            return perm.access
    return perms[0].access


def home_of(domid: int) -> str:
    """Path of a domain's home."""
    return f"{_HOMES}{domid}"


def parent_of(path: str) -> str:
    """Path of a node's parent; the root is its own."""
    return path[: path.rfind("/")] or "/"


def ancestors(path: str) -> Iterator[str]:
    """``path`` itself, its parent, and so on to the root."""
    while True:
        yield path
        if path == "/":
            return
        path = parent_of(path)


def join(parent: str, name: str) -> str:
    """Path of a child."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def valid_path(path: str) -> bool:
    """True for an absolute path that a node can have."""
    if not path.startswith("/") or "//" in path or len(path) > ABS_PATH_MAX:
        return False
    if path.endswith("/") and path != "/":
        return False
    below = path
    if path.startswith(_HOMES):
        number, slash, rest = path[len(_HOMES) :].partition("/")
        if slash and number.isdigit():
            below = rest
    return len(below) <= REL_PATH_MAX and _ALLOWED.issuperset(path)


def name_of(path: str) -> str:
    """Last part of a path."""
    return path[path.rfind("/") + 1 :]
