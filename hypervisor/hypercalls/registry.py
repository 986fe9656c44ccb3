"""Which function answers which hypercall: one table, filled by the decorator.

A hypercall is a function ``(hv, domain, *arguments) -> int | None``. Arguments are the ABI's
registers as unsigned numbers of the guest's width, unchecked. The result is what the guest finds in
RAX (a negative errno for a refusal); ``None`` means that there is no result because the guest goes
on somewhere else (``iret``). A ``GuestFault`` that rises out of it becomes -EFAULT.

What a pointer points at is laid out for the width of the guest that asks (``Domain.width``): a
function reads it by ``GuestMemory.record`` or by a layout of that width. Where a 32-bit guest
passes a 64-bit number in two registers, it has a function of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.abi import Hypercall, Width

Function = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One hypercall: number, Xen's name, function, how many arguments it takes (0..6)."""

    number: Hypercall
    name: str
    function: Function
    arguments: int


TABLES: dict[Width, dict[int, Entry]] = {64: {}, 32: {}}
"""By the guest's width, all hypercalls that are implemented; every other answers -ENOSYS."""
HYPERCALLS = TABLES[64]
"""Those of 64-bit guests."""


def hypercall(
    number: Hypercall, arguments: int, width: Width | None = None
) -> Callable[[Function], Function]:
    """Register the decorated function as the answer to hypercall ``number``.

    ``width``: for guests of this width only, where the two pass different arguments.
    """

    def register(function: Function) -> Function:
        for at in (64, 32) if width is None else (width,):
            if number in TABLES[at]:
                raise ValueError(f"hypercall {number.name} is registered twice")
            TABLES[at][int(number)] = Entry(number, number.name, function, arguments)
        return function

    return register
