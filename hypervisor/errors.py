"""Errors of the hypervisor, below the one root in ``emu.errors``.

What a guest does wrong is never one of these: it gets an errno or a fault. These are for the
person at the command line, and for bugs of the hypervisor itself.
"""

from emu.errors import CowbirdError


class HypervisorError(CowbirdError):
    """An invariant of the hypervisor is broken: a bug here, never a guest's doing."""


class DomainError(CowbirdError):
    """A domain cannot be built or found as asked."""


class OutOfFrames(CowbirdError):
    """Machine memory is used up. ``wanted`` and ``free`` are frames."""

    def __init__(self, wanted: int, free: int) -> None:
        super().__init__(f"machine memory is used up: {wanted} frames wanted, {free} free")
        self.wanted = wanted
        self.free = free


class Preempted(Exception):
    """A hypercall has done enough for once, and is to be made again with ``arguments``.

    What was done so far is where the new arguments, or the guest's memory, say that it is: Xen's
    continuations. The guest sees nothing of it but the time.
    """

    def __init__(self, *arguments: int) -> None:
        super().__init__(arguments)
        self.arguments = arguments


class GuestFault(Exception):
    """A guest pointer did not hold; hypercall code lets it rise and the guest gets ``-EFAULT``."""
