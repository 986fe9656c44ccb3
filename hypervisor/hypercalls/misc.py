"""``vm_assist`` and ``physdev_op``: what a guest may switch, and the one physical thing it has.

Only what is honoured can be switched on. There are no physical interrupts, so of physdev_op only
the virtual I/O privilege level is left.

Source: xen.h (VMASST_*), physdev.h.
"""

from typing import TYPE_CHECKING, Final

from hypervisor.abi import (
    Errno,
    Hypercall,
    PhysdevOp,
    PhysdevSetIopl,
    VmAssist,
    VmAssistCmd,
    Width,
)
from hypervisor.domain import Domain
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

HONOURED: Final = frozenset(
    {
        # The first three are about 32-bit guests: for a 64-bit one there is nothing to do.
        VmAssist._4gb_segments,
        VmAssist._4gb_segments_notify,
        VmAssist.pae_extended_cr3,
        VmAssist.writable_pagetables,
        VmAssist.architectural_iopl,
        VmAssist.runstate_update_flag,
    }
)
"""Assists that can be switched; the others answer -EINVAL, as an unknown one does."""
_EINVAL: Final = -int(Errno.EINVAL)
_ENOSYS: Final = -int(Errno.ENOSYS)
_COMPAT_ARGUMENT: Final[dict[Width, int]] = {64: 8, 32: 4}
"""Where the argument is behind the command: it holds a pointer."""


@hypercall(Hypercall.vm_assist, 2)
def vm_assist(_hv: "Hypervisor", domain: Domain, command: int, assist: int) -> int:
    """Switch an assist on or off."""
    command, assist = command & 0xFFFF_FFFF, assist & 0xFFFF_FFFF
    if assist not in HONOURED:
        return _EINVAL
    if command == VmAssistCmd.enable:
        domain.vm_assist |= 1 << assist
    elif command == VmAssistCmd.disable:
        domain.vm_assist &= ~(1 << assist)
    else:
        return _ENOSYS
    return 0


@hypercall(Hypercall.physdev_op, 2)
def physdev_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Answer one PHYSDEVOP_*."""
    if command & 0xFFFF_FFFF != PhysdevOp.set_iopl:
        return _ENOSYS
    iopl = hv.guest.record(domain, PhysdevSetIopl, argument).iopl
    if iopl > 3:
        return _EINVAL
    domain.iopl = iopl
    return 0


@hypercall(Hypercall.physdev_op_compat, 1)
def physdev_op_compat(hv: "Hypervisor", domain: Domain, operation: int) -> int | None:
    """The older form: command and argument in one structure."""
    command = int.from_bytes(hv.guest.read(domain, operation, 4), "little")
    return physdev_op(hv, domain, command, operation + _COMPAT_ARGUMENT[domain.width])
