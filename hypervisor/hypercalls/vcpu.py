"""``vcpu_op``: the one vCPU that a domain has, its timers, and where it wants to read about them.

Source: vcpu.h.
"""

from typing import TYPE_CHECKING, Final

from emu.units import MA, MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import (
    Errno,
    Hypercall,
    Shutdown,
    VcpuGuestContext,
    VcpuInfo,
    VcpuOp,
    VcpuRegisterRunstateMemoryArea,
    VcpuRegisterTimeMemoryArea,
    VcpuRegisterVcpuInfo,
    VcpuSetPeriodicTimer,
    VcpuSetSingleshotTimer,
    size_of,
)
from hypervisor.domain import NO_FRAME, Domain
from hypervisor.frames import PageType
from hypervisor.hypercalls.registry import hypercall
from hypervisor.scheduler import deadline_of

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MIN_PERIOD: Final = 1_000_000
"""Nanoseconds: no faster periodic timer is granted."""
MAX_DELTA: Final = (1 << 62) - 1
_EINVAL: Final = -int(Errno.EINVAL)


@hypercall(Hypercall.vcpu_op, 3)
def vcpu_op(hv: "Hypervisor", domain: Domain, command: int, vcpu: int, argument: int) -> int:
    """Answer one VCPUOP_*; there is only vCPU 0.

    ``send_nmi`` answers -ENOSYS: there are no NMIs.
    """
    command &= 0xFFFF_FFFF
    if vcpu & 0xFFFF_FFFF:
        return -int(Errno.ENOENT)
    scheduler, guest = hv.scheduler, hv.guest
    if command == VcpuOp.is_up:
        return 1
    if command == VcpuOp.up:
        return 0
    if command == VcpuOp.down:
        # The last vCPU that goes down takes the domain with it.
        scheduler.shutdown(domain, Shutdown.poweroff)
        return 0
    if command == VcpuOp.initialise:
        guest.record(domain, VcpuGuestContext, argument)
        return -int(Errno.EEXIST)
    if command == VcpuOp.set_periodic_timer:
        period = guest.record(domain, VcpuSetPeriodicTimer, argument).period_ns
        if not MIN_PERIOD <= period <= MAX_DELTA:
            return _EINVAL
        scheduler.set_period(domain, period)
        return 0
    if command == VcpuOp.stop_periodic_timer:
        scheduler.set_period(domain, None)
        return 0
    if command == VcpuOp.set_singleshot_timer:
        return _singleshot(hv, domain, argument)
    if command == VcpuOp.stop_singleshot_timer:
        scheduler.set_timer(domain, None)
        return 0
    if command == VcpuOp.get_runstate_info:
        guest.write(domain, argument, scheduler.runstates.info(domain, scheduler.now()))
        return 0
    if command == VcpuOp.register_runstate_memory_area:
        area = guest.record(domain, VcpuRegisterRunstateMemoryArea, argument).addr
        if not guest.possible(domain, area):
            return -int(Errno.EFAULT)
        scheduler.runstates.register(domain, area, scheduler.now())
        return 0
    if command == VcpuOp.register_vcpu_time_memory_area:
        area = guest.record(domain, VcpuRegisterTimeMemoryArea, argument).addr
        if not guest.possible(domain, area):
            return -int(Errno.EFAULT)
        scheduler.register_time_area(domain, area)
        return 0
    if command == VcpuOp.register_vcpu_info:
        return _register_info(hv, domain, argument)
    if command == VcpuOp.get_physid:
        return _EINVAL
    return -int(Errno.ENOSYS)


def _register_info(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    """Move the vCPU's part of shared_info into a page of the guest's; once, and for good."""
    order = hv.guest.record(domain, VcpuRegisterVcpuInfo, argument)
    if order.offset > PAGE_SIZE - size_of(VcpuInfo) or order.offset % (domain.width // 8):
        return -int(Errno.ENXIO)
    if domain.vcpu_info_frame != NO_FRAME:
        return _EINVAL
    if not hv.paging.get_owned(order.mfn, domain):
        return _EINVAL
    mfn = MFN(order.mfn)
    if hv.paging.get_type(mfn, PageType.WRITABLE, domain):
        hv.paging.put_ref(mfn)
        return _EINVAL
    domain.vcpu_info_frame = mfn
    hv.events.move_info(domain, MA((mfn << PAGE_SHIFT) + order.offset))
    hv.scheduler.refresh_time(domain)
    return 0


def _singleshot(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    order = hv.guest.record(domain, VcpuSetSingleshotTimer, argument)
    # VCPU_SSHOTTMR_future is ignored, as Xen does since 4.17.2: a time in the past fires at once.
    hv.scheduler.set_timer(domain, deadline_of(order.timeout_abs_ns))
    return 0
