"""Event channels: Xen's two-level ports, and the virtual interrupt that they raise.

A port is a number of one domain. Raising it sets a bit in the domain's ``shared_info``; if the
guest has not masked the port, a selector bit and ``evtchn_upcall_pending`` follow, and the domain
is entered at its event callback as soon as it has not masked upcalls. The bits belong to the guest
as much as to the hypervisor: nothing here trusts them, and only what is in ``Channel`` decides
where an event goes.

Invariants: an interdomain channel's two ends name each other; at most one port per virtual
interrupt; port 0 is never in use. Results are Xen's errnos, and nothing is changed on failure.

Source: event_channel.h for the operations, xen.h (shared_info, vcpu_info) for the bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emu.units import MA, PAGE_SHIFT, mfn_of
from hypervisor.abi import NR_VIRQS, Errno, EvtchnStat, VcpuInfo, Virq, size_of
from hypervisor.domain import Domain
from hypervisor.errors import HypervisorError
from hypervisor.sharedinfo import SHARED, UPCALL_MASK, UPCALL_PENDING

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_PER_VCPU: Final = (Virq.TIMER, Virq.DEBUG, Virq.XENOPROF, Virq.XENPMU)

_BUCKET: Final = 64
"""Ports that Xen provides for at a time."""
_INFO_SIZE: Final = size_of(VcpuInfo)
"""Bytes, at both widths."""
_EINVAL: Final = -int(Errno.EINVAL)
_ENOENT: Final = -int(Errno.ENOENT)
_ENOSPC: Final = -int(Errno.ENOSPC)
_EEXIST: Final = -int(Errno.EEXIST)


@dataclass(slots=True)
class Channel:
    """One port in use. ``remote`` is a domain id (interdomain, unbound) and ``remote_port`` its
    port (interdomain); ``virq`` the virtual interrupt. ``service``: the other end is one of the
    hypervisor's own parts, which act as domain 0."""

    state: EvtchnStat
    remote: int = 0
    remote_port: int = 0
    virq: int = 0
    service: "ServiceLink | None" = None


class ServiceLink:
    """The hypervisor's own end of a domain's port.

    ``callback`` is called when the guest sends to it, in the middle of that hypercall.
    """

    def __init__(self, events: "Events", domain: Domain, port: int) -> None:
        self.callback: Callable[[], None] | None = None
        self._events = events
        self._domain = domain
        self._port = port

    def notify(self) -> None:
        """Raise the guest's end, unless the guest has closed it."""
        channel = self._events.channel(self._domain, self._port)
        if channel is not None and channel.service is self:
            self._events.raise_port(self._domain, self._port)

    def close(self) -> None:
        """Give the hypervisor's end up: the guest's port is left for domain 0 again."""
        channel = self._events.channel(self._domain, self._port)
        if channel is not None and channel.service is self:
            channel.state, channel.remote, channel.remote_port = EvtchnStat.unbound, 0, 0
            channel.service = None


class Events:
    """All domains' ports."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._bytes = hv.machine.memory.bytes
        self._ports: dict[int, dict[int, Channel]] = {}
        self._known: dict[int, int] = {}
        """How many port numbers a domain has used, in whole buckets."""
        self._services = 0

    # -- life ------------------------------------------------------------------------------

    def init_domain(self, domain: Domain) -> None:
        """A new domain has no ports."""
        self._ports[domain.id] = {}
        self._known[domain.id] = _BUCKET

    def close_all(self, domain: Domain) -> None:
        """A domain ends: its ports are closed, the other ends learn of it as in ``close``."""
        self.reset(domain)
        del self._ports[domain.id]
        del self._known[domain.id]
        self._hv.scheduler.forget(domain)

    def reset(self, domain: Domain) -> int:
        """Close every port. Returns 0."""
        for port in sorted(self._ports[domain.id]):
            self.close(domain, port)
        return 0

    # -- bits ------------------------------------------------------------------------------

    def deliverable(self, domain: Domain) -> bool:
        """True if the domain is to be entered at its event callback now."""
        at, data = domain.vcpu_info, self._bytes
        return (
            data[at + UPCALL_PENDING] != 0
            and data[at + UPCALL_MASK] == 0
            and domain.event_callback is not None
        )

    def wanted(self, domain: Domain) -> bool:
        """True if an upcall is pending and not masked, whether or not there is a callback."""
        at = domain.vcpu_info
        return self._bytes[at + UPCALL_PENDING] != 0 and self._bytes[at + UPCALL_MASK] == 0

    def mask_upcalls(self, domain: Domain, masked: bool) -> None:
        """Set the virtual interrupt flag's opposite."""
        self._bytes[domain.vcpu_info + UPCALL_MASK] = masked
        self._hv.machine.coherence.wrote(mfn_of(domain.vcpu_info))

    def raise_port(self, domain: Domain, port: int) -> None:
        """An event arrives at a port: set what is to be set, and wake the domain if it waits."""
        if domain.exit is not None:
            return
        data = self._bytes
        shared = SHARED[domain.width]
        at, bit = (domain.shared_info << PAGE_SHIFT) + (port >> 3), 1 << (port & 7)
        if data[at + shared.pending] & bit:
            return
        data[at + shared.pending] |= bit
        self._hv.machine.coherence.wrote(domain.shared_info)
        domain.tally["events"] += 1
        if not data[at + shared.mask] & bit:
            self._select(domain, port)
        if self._hv.scheduler.polls_for(domain, port):
            self._hv.scheduler.wake(domain)

    def _select(self, domain: Domain, port: int) -> None:
        """Set the selector bit of a port's group; if it was clear, the upcall becomes pending."""
        data = self._bytes
        shared = SHARED[domain.width]
        info = domain.vcpu_info
        group = port >> shared.group_shift
        at, bit = info + shared.selector + (group >> 3), 1 << (group & 7)
        if data[at] & bit:
            return
        data[at] |= bit
        self._hv.machine.coherence.wrote(mfn_of(info))
        pending = info + UPCALL_PENDING
        if self._bytes[pending]:
            return
        self._bytes[pending] = 1
        self._hv.scheduler.wake(domain)

    def move_info(self, domain: Domain, info: MA) -> None:
        """Have the vCPU's part of shared_info at ``info`` from now on: its contents move there.

        Every event counts as pending afterwards, so that none is lost that came meanwhile.
        """
        data, size = self._bytes, _INFO_SIZE
        data[info : info + size] = bytes(data[domain.vcpu_info : domain.vcpu_info + size])
        domain.vcpu_info = info
        shared = SHARED[domain.width]
        data[info + shared.selector : info + shared.selector + shared.word] = b"\xff" * shared.word
        data[info + UPCALL_PENDING] = 1
        self._hv.machine.coherence.wrote(mfn_of(info))

    def raise_virq(self, domain: Domain, virq: int) -> None:
        """A virtual interrupt; nothing happens if the domain has not bound it."""
        port = self.port_of(domain, virq)
        if port:
            self.raise_port(domain, port)

    def port_of(self, domain: Domain, virq: int) -> int:
        """The port bound to a virtual interrupt, or 0."""
        for port, channel in self._ports[domain.id].items():
            if channel.state is EvtchnStat.virq and channel.virq == virq:
                return port
        return 0

    def pending(self, domain: Domain, port: int) -> bool:
        """True if the port's pending bit is set."""
        return self._bit(domain, SHARED[domain.width].pending, port)

    def masked(self, domain: Domain, port: int) -> bool:
        """True if the guest has masked the port."""
        return self._bit(domain, SHARED[domain.width].mask, port)

    def _bit(self, domain: Domain, offset: int, port: int) -> bool:
        at = (domain.shared_info << PAGE_SHIFT) + offset + (port >> 3)
        return bool(self._bytes[at] >> (port & 7) & 1)

    def _clear(self, domain: Domain, offset: int, port: int) -> None:
        """Clear a port's bit in the array at ``offset``, if a port has a bit of that number."""
        at = (domain.shared_info << PAGE_SHIFT) + offset + (port >> 3)
        self._bytes[at] &= ~(1 << (port & 7))
        self._hv.machine.coherence.wrote(domain.shared_info)

    # -- operations ------------------------------------------------------------------------

    def valid(self, domain: Domain, port: int) -> bool:
        """True if the domain has used ports up to that number, give or take a bucket of Xen's."""
        return 0 <= port < self._known[domain.id]

    def channel(self, domain: Domain, port: int) -> Channel | None:
        """What a port is bound to, None if it is closed."""
        return self._ports[domain.id].get(port)

    def _free_port(self, domain: Domain) -> int:
        ports = self._ports[domain.id]
        for port in range(1, SHARED[domain.width].channels):
            if port not in ports:
                return port
        return _ENOSPC

    def _open(self, domain: Domain, channel: Channel) -> int:
        port = self._free_port(domain)
        if port > 0:
            self._ports[domain.id][port] = channel
            self._known[domain.id] = max(self._known[domain.id], (port // _BUCKET + 1) * _BUCKET)
        return port

    def alloc_unbound(self, domain: Domain, remote: int) -> int:
        """A port of ``domain`` that domain ``remote`` may bind. Returns it, or -ENOSPC."""
        return self._open(domain, Channel(EvtchnStat.unbound, remote))

    def bind_interdomain(self, domain: Domain, remote: Domain, remote_port: int) -> int:
        """Connect a new port to one that ``remote`` left for this domain.

        Returns the port, -EINVAL if there is no such offer, or -ENOSPC. The new port is raised at
        once, since what was sent before is lost.
        """
        if self._free_port(domain) < 0:
            return _ENOSPC
        other = self.channel(remote, remote_port)
        if other is None or other.state is not EvtchnStat.unbound or other.remote != domain.id:
            return _EINVAL
        port = self._open(domain, Channel(EvtchnStat.interdomain, remote.id, remote_port))
        other.state, other.remote, other.remote_port = EvtchnStat.interdomain, domain.id, port
        self.raise_port(domain, port)
        return port

    def bind_service(self, domain: Domain, port: int) -> ServiceLink:
        """Connect a part of the hypervisor to a port that was left for domain 0.

        To the guest it is an interdomain channel to domain 0.

        Raises:
            HypervisorError: there is no such offer.
        """
        channel = self.channel(domain, port)
        if channel is None or channel.state is not EvtchnStat.unbound or channel.remote:
            raise HypervisorError(f"{domain.label}: port {port} is not left for domain 0")
        self._services += 1
        link = ServiceLink(self, domain, port)
        channel.state, channel.remote_port = EvtchnStat.interdomain, self._services
        channel.service = link
        return link

    def bind_virq(self, domain: Domain, virq: int, vcpu: int) -> int:
        """A port for a virtual interrupt: it, -EINVAL, -ENOENT (no such vCPU) or -EEXIST."""
        if virq >= NR_VIRQS or (vcpu and virq not in _PER_VCPU):
            return _EINVAL
        if vcpu:
            return _ENOENT
        if self.port_of(domain, virq):
            return _EEXIST
        return self._open(domain, Channel(EvtchnStat.virq, virq=virq))

    def bind_ipi(self, domain: Domain, vcpu: int) -> int:
        """A port by which the domain interrupts itself: it, -ENOENT or -ENOSPC."""
        if vcpu:
            return _ENOENT
        return self._open(domain, Channel(EvtchnStat.ipi))

    def bind_vcpu(self, domain: Domain, port: int, vcpu: int) -> int:
        """Direct a port's events to a vCPU; there is one, so only the checks remain."""
        if vcpu:
            return _ENOENT
        channel = self.channel(domain, port)
        if channel is None or channel.state is EvtchnStat.ipi:
            return _EINVAL
        if channel.state is EvtchnStat.virq and channel.virq in _PER_VCPU:
            return _EINVAL
        return 0

    def close(self, domain: Domain, port: int) -> int:
        """Close a port; the other end of an interdomain channel becomes unbound. 0 or -EINVAL."""
        channel = self.channel(domain, port)
        if channel is None:
            return _EINVAL
        if channel.state is EvtchnStat.interdomain and channel.service is None:
            other = self._ports[channel.remote][channel.remote_port]
            other.state, other.remote, other.remote_port = EvtchnStat.unbound, domain.id, 0
        self._clear(domain, SHARED[domain.width].pending, port)
        # The other end may be a port of this domain, so it is looked up again.
        self._ports[domain.id].pop(port)
        return 0

    def send(self, domain: Domain, port: int) -> int:
        """Raise the other end. An unbound port swallows it. 0 or -EINVAL."""
        channel = self.channel(domain, port)
        if channel is None:
            return _EINVAL
        if channel.service is not None:
            if channel.service.callback is not None:
                channel.service.callback()
        elif channel.state is EvtchnStat.interdomain:
            self.raise_port(self._hv.domains[channel.remote], channel.remote_port)
        elif channel.state is EvtchnStat.ipi:
            self.raise_port(domain, port)
        elif channel.state is not EvtchnStat.unbound:
            return _EINVAL
        return 0

    def unmask(self, domain: Domain, port: int) -> int:
        """Clear a port's mask; an event that waited behind it becomes pending. 0 or -EINVAL."""
        if not self.valid(domain, port):
            return _EINVAL
        if self.masked(domain, port):
            self._clear(domain, SHARED[domain.width].mask, port)
            if self.pending(domain, port):
                self._select(domain, port)
        return 0
