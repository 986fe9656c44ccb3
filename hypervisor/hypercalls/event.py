"""``event_channel_op``: a domain's ports.

Arguments are read and written here; the rules are in ``hypervisor.events``. There are two-level
channels only: FIFO channels (``init_control`` and its kin) answer -ENOSYS, upon which guests keep
to two levels.

Source: event_channel.h.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hypervisor.abi import (
    DomId,
    Errno,
    EvtchnAllocUnbound,
    EvtchnBindInterdomain,
    EvtchnBindIpi,
    EvtchnBindPirq,
    EvtchnBindVcpu,
    EvtchnBindVirq,
    EvtchnClose,
    EvtchnOp,
    EvtchnReset,
    EvtchnSend,
    EvtchnStat,
    EvtchnStatus,
    EvtchnUnmask,
    Hypercall,
    Record,
    to_bytes,
)
from hypervisor.domain import Domain
from hypervisor.hypercalls.mmu import foreign
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

PIRQS: Final = 48
"""Interrupts that a domain could be given: 16 of the machine and Xen's 32 spare ones."""
_EINVAL: Final = -int(Errno.EINVAL)
_EPERM: Final = -int(Errno.EPERM)
_ESRCH: Final = -int(Errno.ESRCH)
_ENOSYS: Final = -int(Errno.ENOSYS)


@hypercall(Hypercall.event_channel_op, 2)
def event_channel_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Answer one EVTCHNOP_*."""
    entry = _OPERATIONS.get(command & 0xFFFF_FFFF)
    if entry is None:
        return _ENOSYS
    kind, function, gives_back = entry
    record = hv.guest.record(domain, kind, argument)
    if gives_back:
        # A port whose number cannot be told would be lost: see first that it can.
        hv.guest.write(domain, argument, to_bytes(record))
    answer = function(hv, domain, record)
    if gives_back and answer == 0:
        hv.guest.write(domain, argument, to_bytes(record))
    return answer


@hypercall(Hypercall.event_channel_op_compat, 1)
def event_channel_op_compat(hv: "Hypervisor", domain: Domain, operation: int) -> int | None:
    """The older form: command and argument in one structure."""
    command = int.from_bytes(hv.guest.read(domain, operation, 4), "little")
    if command > EvtchnOp.unmask:
        return _ENOSYS
    return event_channel_op(hv, domain, command, operation + 4)


def _took(record: Record, field: str, port: int) -> int:
    """Store a port number in the answer, or pass the errno on."""
    if port < 0:
        return port
    setattr(record, field, port)
    return 0


def _domid(domain: Domain, domid: int) -> int:
    return domain.id if domid == DomId.SELF else domid


def _alloc_unbound(hv: "Hypervisor", domain: Domain, record: EvtchnAllocUnbound) -> int:
    owner = foreign(hv, domain, record.dom)
    if isinstance(owner, int):
        return owner
    remote = _domid(domain, record.remote_dom)
    return _took(record, "port", hv.events.alloc_unbound(owner, remote))


def _bind_interdomain(hv: "Hypervisor", domain: Domain, record: EvtchnBindInterdomain) -> int:
    remote = hv.domains.get(_domid(domain, record.remote_dom))
    if remote is None or remote.exit is not None:
        return _ESRCH
    port = hv.events.bind_interdomain(domain, remote, record.remote_port)
    return _took(record, "local_port", port)


def _bind_virq(hv: "Hypervisor", domain: Domain, record: EvtchnBindVirq) -> int:
    return _took(record, "port", hv.events.bind_virq(domain, record.virq, record.vcpu))


def _bind_ipi(hv: "Hypervisor", domain: Domain, record: EvtchnBindIpi) -> int:
    return _took(record, "port", hv.events.bind_ipi(domain, record.vcpu))


def _bind_pirq(_hv: "Hypervisor", _domain: Domain, record: EvtchnBindPirq) -> int:
    return _EPERM if record.pirq < PIRQS else _EINVAL


def _bind_vcpu(hv: "Hypervisor", domain: Domain, record: EvtchnBindVcpu) -> int:
    return hv.events.bind_vcpu(domain, record.port, record.vcpu)


def _close(hv: "Hypervisor", domain: Domain, record: EvtchnClose) -> int:
    return hv.events.close(domain, record.port)


def _send(hv: "Hypervisor", domain: Domain, record: EvtchnSend) -> int:
    return hv.events.send(domain, record.port)


def _unmask(hv: "Hypervisor", domain: Domain, record: EvtchnUnmask) -> int:
    return hv.events.unmask(domain, record.port)


def _status(hv: "Hypervisor", domain: Domain, record: EvtchnStatus) -> int:
    owner = foreign(hv, domain, record.dom)
    if isinstance(owner, int):
        return owner
    if not hv.events.valid(owner, record.port):
        return _EINVAL
    channel = hv.events.channel(owner, record.port)
    record.status = EvtchnStat.closed if channel is None else channel.state
    record.vcpu = 0
    if channel is None:
        return 0
    if channel.state is EvtchnStat.unbound:
        record.u.unbound.dom = channel.remote
    elif channel.state is EvtchnStat.interdomain:
        record.u.interdomain.dom = channel.remote
        record.u.interdomain.port = channel.remote_port
    elif channel.state is EvtchnStat.virq:
        record.u.virq = channel.virq
    return 0


def _reset(hv: "Hypervisor", domain: Domain, record: EvtchnReset) -> int:
    owner = foreign(hv, domain, record.dom)
    if isinstance(owner, int):
        return owner
    return hv.events.reset(owner)


Operation = Callable[["Hypervisor", Domain, Any], int]

_OPERATIONS: Final[dict[int, tuple[type[Record], Operation, bool]]] = {
    EvtchnOp.bind_interdomain: (EvtchnBindInterdomain, _bind_interdomain, True),
    EvtchnOp.bind_virq: (EvtchnBindVirq, _bind_virq, True),
    EvtchnOp.bind_pirq: (EvtchnBindPirq, _bind_pirq, True),
    EvtchnOp.close: (EvtchnClose, _close, False),
    EvtchnOp.send: (EvtchnSend, _send, False),
    EvtchnOp.status: (EvtchnStatus, _status, True),
    EvtchnOp.alloc_unbound: (EvtchnAllocUnbound, _alloc_unbound, True),
    EvtchnOp.bind_ipi: (EvtchnBindIpi, _bind_ipi, True),
    EvtchnOp.bind_vcpu: (EvtchnBindVcpu, _bind_vcpu, False),
    EvtchnOp.unmask: (EvtchnUnmask, _unmask, False),
    EvtchnOp.reset: (EvtchnReset, _reset, False),
}
"""Structure of the argument, function, and whether the structure carries an answer."""
