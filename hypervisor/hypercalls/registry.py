"""Which function answers which hypercall: one table, filled by the decorator.

A hypercall is a function ``(hv, domain, *arguments) -> int | None``. Arguments are the ABI's
registers as unsigned 64-bit numbers, unchecked. The result is what the guest finds in RAX (a
negative errno for a refusal); ``None`` means that there is no result because the guest goes on
somewhere else (``iret``). A ``GuestFault`` that rises out of it becomes -EFAULT.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.abi import Hypercall

Function = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One hypercall: number, Xen's name, function, how many arguments it takes (0..6)."""

    number: Hypercall
    name: str
    function: Function
    arguments: int


HYPERCALLS: dict[int, Entry] = {}
"""All hypercalls that are implemented; every other number answers -ENOSYS."""


def hypercall(number: Hypercall, arguments: int) -> Callable[[Function], Function]:
    """Register the decorated function as the answer to hypercall ``number``."""

    def register(function: Function) -> Function:
        if number in HYPERCALLS:
            raise ValueError(f"hypercall {number.name} is registered twice")
        HYPERCALLS[int(number)] = Entry(number, number.name, function, arguments)
        return function

    return register
