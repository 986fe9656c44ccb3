"""Inputs: all that reaches a machine from outside of it, as values with a position.

``type``      ``data`` on the console of ``domain``
``only``      the domains ``ids`` may run, None for all
``store``     ``data`` at machine address ``value`` (a debugger's write)
``register``  register ``name`` of ``domain`` becomes ``value``
``pass``      ``value`` nanoseconds of virtual time go by

An input is made where the machine stands still, and made again there when the same instructions
have run again. Before and after it the scheduler is settled, so that nothing depends on whether the
machine was left and gone on with in between.
"""

from dataclasses import dataclass
from typing import Final

from hypervisor.abi import Virq
from hypervisor.debug.model import DebugError
from hypervisor.debug.state import DomainState
from hypervisor.hypervisor import Hypervisor

KINDS: Final = ("type", "only", "store", "register", "pass")


@dataclass(frozen=True, slots=True)
class Input:
    """One input; which fields mean something depends on ``kind``."""

    position: int
    kind: str
    domain: int = 0
    data: bytes = b""
    name: str = ""
    value: int = 0
    ids: tuple[int, ...] | None = None


def apply(hv: Hypervisor, state: DomainState, given: Input) -> None:
    """Make an input.

    Raises:
        DebugError: its domain does not live, or what it says cannot be done.
    """
    scheduler = hv.scheduler
    scheduler.settle()
    if given.kind == "type":
        domain = state.domain(given.domain)
        domain.console.feed(given.data)
        if domain.exit is None:
            hv.events.raise_virq(domain, Virq.CONSOLE)
    elif given.kind == "only":
        scheduler.only = None if given.ids is None else frozenset(given.ids)
    elif given.kind == "store":
        state.store(given.value, given.data)
    elif given.kind == "register":
        state.set_register(given.domain, given.name, given.value)
    elif given.kind == "pass":
        scheduler.pass_time(given.value)
    else:
        raise DebugError(f"{given.kind!r} is no input")
    scheduler.settle()
