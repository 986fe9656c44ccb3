"""The systems that are compared.

A system is what a guest kernel does about equal pages (a policy of ``guests/lab``), and the domains
that help it. ``prepare`` runs once the domains are there and before their first instruction: it
makes a group of them, or gives rights that one domain needs over others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

Prepare = Callable[["Hypervisor", Sequence[Domain], Sequence[Domain]], None]
"""Called with the helpers and the clients."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A domain beside the clients. ``guest``: a source in ``guests/lab``, without its suffix.

    ``memory``: bytes of its own; ``memory_per_client``: bytes more for each client. ``cmdline`` may
    have ``{clients}`` and ``{pages}`` in it.
    """

    guest: str
    memory: int
    memory_per_client: int = 0
    cmdline: str = ""
    module: bool = False
    """True if it gets the module of the first client: the disk."""


@dataclass(frozen=True, slots=True)
class System:
    """One system. ``oracle``: what counts is what could be shared, not what is."""

    name: str
    description: str
    policy: str
    helpers: tuple[Helper, ...] = ()
    prepare: Prepare | None = None
    oracle: bool = False
    most_domains: int = 64
    most_pages: int | None = None
    """Pages of all clients together that its helper has room for."""


def _make_group(_hv: "Hypervisor", helpers: Sequence[Domain], clients: Sequence[Domain]) -> None:
    """The first helper manages the memory of all clients."""
    helpers[0].targets = frozenset(client.id for client in clients)


_CLIENTS: Final = "clients={clients} first=2"
"""Helpers are made before the clients, and there is one."""

SYSTEMS: Final = {
    system.name: system
    for system in (
        System(
            "none",
            "no sharing between domains; a fork within one copies on write, as any kernel's does",
            "none",
        ),
        System(
            "reference",
            "by reference only: the pages of the same image and the same block of a file, when "
            "they are loaded",
            "reference",
        ),
        System(
            "scanner",
            "a thread in each kernel looks for pages that have not changed since its last pass, as "
            "Linux's KSM does, and shares them",
            "scanner",
        ),
        System(
            "share",
            "make_ro_and_share when a page is filled: one hypercall for each page",
            "share",
        ),
        System(
            "background",
            "make_ro_and_share for what was filled, some time later, many pages in one call",
            "background",
        ),
        System(
            "manager",
            "Peri Hankey's page-table manager: a domain with a privilege over the memory of its "
            "group makes every change of its clients' tables, and merges by what it knows",
            "manager",
            helpers=(Helper("manager", 4 << 20, cmdline=_CLIENTS),),
            prepare=_make_group,
            most_domains=16,
        ),
        System(
            "pager",
            "an external pager, as in microkernels: faults become messages to a domain that owns "
            "the memory and answers with mappings; copies on write are made there",
            "pager",
            helpers=(Helper("pager", 4 << 20, 4 << 20, _CLIENTS),),
            most_domains=16,
            most_pages=3072,
        ),
        System(
            "oracle",
            "shares nothing; counts over snapshots of all frames what could be shared",
            "none",
            oracle=True,
        ),
    )
}
"""All systems by name, in the order in which tables show them."""
