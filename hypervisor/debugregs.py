"""A guest's virtual debug registers: what it may write, and what it reads.

They are stored and checked here; ``hwbreak`` makes what they ask for happen, and whoever changes
one has it look at them again (``arm``).

Source: Intel SDM volume 3B, 18.2; Xen 4.17's errnos: -EPERM for what a guest must not set,
-EINVAL for bits that do not exist, -ENODEV for a register that does not.
"""

from typing import Final

from emu.paging import DR6, DR7
from emu.units import is_canonical
from hypervisor.abi import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, Errno
from hypervisor.domain import Domain

_DR6_ONES: Final = DR6.ones
_DR6_ZEROS: Final = 1 << 12
_DR7_ONES: Final = DR7.ones
_DR7_ZEROS: Final = 0xD800
_DR7_GD: Final = DR7.mask("GD")
ACTIVE: Final = 0xFF
"""Bits of DR7 that enable breakpoints."""
_IO: Final = 2


def set_debug_register(domain: Domain, number: int, value: int, extensions: bool) -> int:
    """Write DR ``number``; ``extensions`` is the guest's CR4.DE. Returns 0 or a negative errno."""
    if 0 <= number <= 3:
        if not is_canonical(value) or HYPERVISOR_VIRT_START <= value < HYPERVISOR_VIRT_END:
            return -int(Errno.EPERM)
        domain.debug_registers[number] = value
        return 0
    if number not in (4, 5, 6, 7) or (number < 6 and extensions):
        return -int(Errno.ENODEV)
    if value >> 32:
        return -int(Errno.EINVAL)
    if number in (4, 6):
        domain.debug_registers[6] = value & ~_DR6_ZEROS | _DR6_ONES
        return 0
    value = value & ~_DR7_ZEROS | _DR7_ONES
    if value & _DR7_GD:
        return -int(Errno.EPERM)
    if value & ACTIVE and not extensions and any(value >> at & 3 == _IO for at in range(16, 32, 4)):
        return -int(Errno.EPERM)
    domain.debug_registers[7] = value
    return 0


def get_debug_register(domain: Domain, number: int, extensions: bool) -> int | None:
    """Read DR ``number``; None if there is no such register."""
    if number in (4, 5) and not extensions:
        number += 2
    if not 0 <= number <= 7 or number in (4, 5):
        return None
    value = domain.debug_registers[number]
    if number == 6:
        return value | _DR6_ONES
    return value | _DR7_ONES if number == 7 else value
