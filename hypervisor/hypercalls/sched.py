"""``sched_op`` and ``set_timer_op``: giving up the CPU, ending, waiting.

Source: sched.h; for the timer, Xen's comment on guests that ask for times long past or far away.
"""

import struct
from typing import TYPE_CHECKING, Final

from hypervisor.abi import (
    Errno,
    Hypercall,
    SchedOp,
    SchedPoll,
    SchedRemoteShutdown,
    SchedShutdown,
    SchedWatchdog,
)
from hypervisor.domain import Domain
from hypervisor.hypercalls.registry import hypercall
from hypervisor.scheduler import deadline_of

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_POLL_PORTS: Final = 128
_FAR: Final = 1 << 50
_SOON: Final = 100_000_000
"""Nanoseconds: when a guest asks for a time that makes no sense, it is woken so much later."""
_EINVAL: Final = -int(Errno.EINVAL)
_EPERM: Final = -int(Errno.EPERM)
_ESRCH: Final = -int(Errno.ESRCH)
_ENOSYS: Final = -int(Errno.ENOSYS)


@hypercall(Hypercall.sched_op, 2)
def sched_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Answer one SCHEDOP_*; what does not return to the guest ends the domain."""
    command &= 0xFFFF_FFFF
    if command == SchedOp.yield_:
        return _yield(hv, domain)
    if command == SchedOp.block:
        return _block(hv, domain)
    if command in (SchedOp.shutdown, SchedOp.shutdown_code):
        reason = hv.guest.record(domain, SchedShutdown, argument).reason & 0xFF
        if command == SchedOp.shutdown:
            hv.scheduler.shutdown(domain, reason)
        else:
            hv.scheduler.latch_reason(domain, reason)
        return 0
    if command == SchedOp.poll:
        return _poll(hv, domain, hv.guest.record(domain, SchedPoll, argument))
    if command == SchedOp.remote_shutdown:
        order = hv.guest.record(domain, SchedRemoteShutdown, argument)
        other = hv.domains.get(order.domain_id)
        if other is None or other.exit is not None:
            return _ESRCH
        if not domain.privileged:
            return _EPERM
        hv.scheduler.shutdown(other, order.reason & 0xFF)
        return 0
    if command == SchedOp.watchdog:
        dog = hv.guest.record(domain, SchedWatchdog, argument)
        return hv.scheduler.watchdog(domain, dog.id, dog.timeout)
    if command == SchedOp.pin_override:
        return _EPERM
    return _ENOSYS


@hypercall(Hypercall.sched_op_compat, 2)
def sched_op_compat(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """The oldest form: the reason of a shutdown is the argument itself."""
    command &= 0xFFFF_FFFF
    if command == SchedOp.yield_:
        return _yield(hv, domain)
    if command == SchedOp.block:
        return _block(hv, domain)
    if command == SchedOp.shutdown:
        hv.scheduler.shutdown(domain, argument & 0xFF)
        return 0
    return _ENOSYS


def _yield(hv: "Hypervisor", domain: Domain) -> int:
    domain.waits += 1
    hv.machine.stop()
    return 0


def _block(hv: "Hypervisor", domain: Domain) -> int:
    domain.waits += 1
    hv.events.mask_upcalls(domain, False)
    if not hv.events.wanted(domain):
        hv.scheduler.block(domain)
    return 0


def _poll(hv: "Hypervisor", domain: Domain, request: SchedPoll) -> int:
    if request.nr_ports > MAX_POLL_PORTS:
        return _EINVAL
    domain.waits += 1
    if hv.events.wanted(domain):
        return 0
    raw = hv.guest.read(domain, request.ports, 4 * request.nr_ports) if request.nr_ports else b""
    ports = tuple(port for (port,) in struct.iter_unpack("<I", raw))
    for port in ports:
        if hv.events.channel(domain, port) is None:
            return _EINVAL
        if hv.events.pending(domain, port):
            return 0
    hv.scheduler.poll(domain, ports, deadline_of(request.timeout) if request.timeout else None)
    return 0


@hypercall(Hypercall.set_timer_op, 2, width=32)
def set_timer_op32(hv: "Hypervisor", domain: Domain, low: int, high: int) -> int | None:
    """The same of a 32-bit guest: the time in two registers."""
    return set_timer_op(hv, domain, low | high << 32)


@hypercall(Hypercall.set_timer_op, 1, width=64)
def set_timer_op(hv: "Hypervisor", domain: Domain, timeout: int) -> int:
    """VIRQ_TIMER at ``timeout`` (ns of system time); 0 disarms."""
    scheduler = hv.scheduler
    now = scheduler.now()
    if timeout == 0:
        scheduler.set_timer(domain, None)
    elif timeout >> 63 or timeout - now >= _FAR:
        scheduler.set_timer(domain, now + _SOON)
    else:
        scheduler.set_timer(domain, timeout)
    return 0
