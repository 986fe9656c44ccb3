"""Event channels: the operations with their errnos, the bits, and delivery into a kernel."""

import pytest

from hypervisor.abi import (
    NR_VIRQS,
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
    SchedOp,
    SharedInfo,
    Virq,
    read,
)
from hypervisor.domain import State
from tests.hypervisor.kernels import SELF, Caller, Lab

BUILDERS_PORTS = 2
MASK_WORD = 320


def op(caller: Caller, command: EvtchnOp, record: Record) -> int | None:
    return caller.op(Hypercall.event_channel_op, command, record)


def shared(caller: Caller) -> SharedInfo:
    frame = caller.hv.machine.memory.frame_bytes(caller.domain.shared_info)
    return read(SharedInfo, frame)


def status(caller: Caller, port: int) -> EvtchnStatus:
    record = EvtchnStatus(dom=SELF, port=port)
    assert op(caller, EvtchnOp.status, record) == 0
    return record


def connect(one: Caller, two: Caller) -> tuple[int, int]:
    offer = EvtchnAllocUnbound(dom=SELF, remote_dom=two.domain.id)
    assert op(one, EvtchnOp.alloc_unbound, offer) == 0
    bind = EvtchnBindInterdomain(remote_dom=one.domain.id, remote_port=offer.port)
    assert op(two, EvtchnOp.bind_interdomain, bind) == 0
    return offer.port, bind.local_port


def test_interdomain_channel_from_offer_to_close() -> None:
    lab = Lab()
    one, two, third = Caller(lab), Caller(lab), Caller(lab)
    offer = EvtchnAllocUnbound(dom=SELF, remote_dom=two.domain.id)
    assert op(one, EvtchnOp.alloc_unbound, offer) == 0
    assert offer.port == BUILDERS_PORTS + 1
    seen = status(one, offer.port)
    assert (seen.status, seen.u.unbound.dom) == (EvtchnStat.unbound, two.domain.id)
    assert op(one, EvtchnOp.send, EvtchnSend(port=offer.port)) == 0  # nobody hears it
    bind = EvtchnBindInterdomain(remote_dom=one.domain.id, remote_port=offer.port)
    assert op(third, EvtchnOp.bind_interdomain, bind) == -Errno.EINVAL  # not for this one
    assert op(two, EvtchnOp.bind_interdomain, bind) == 0
    assert lab.hv.events.pending(two.domain, bind.local_port)  # what was missed
    assert op(two, EvtchnOp.bind_interdomain, bind) == -Errno.EINVAL  # taken
    for caller, port, other, other_port in (
        (one, offer.port, two, bind.local_port),
        (two, bind.local_port, one, offer.port),
    ):
        seen = status(caller, port)
        assert seen.status == EvtchnStat.interdomain
        assert seen.u.interdomain.dom == other.domain.id
        assert seen.u.interdomain.port == other_port
    assert op(two, EvtchnOp.send, EvtchnSend(port=bind.local_port)) == 0
    assert lab.hv.events.pending(one.domain, offer.port)
    assert op(two, EvtchnOp.close, EvtchnClose(port=bind.local_port)) == 0
    assert not lab.hv.events.pending(two.domain, bind.local_port)
    seen = status(one, offer.port)
    assert (seen.status, seen.u.unbound.dom) == (EvtchnStat.unbound, two.domain.id)
    assert status(two, bind.local_port).status == EvtchnStat.closed


def test_a_channel_of_a_domain_with_itself() -> None:
    lab = Lab()
    caller = Caller(lab)
    offer = EvtchnAllocUnbound(dom=SELF, remote_dom=SELF)
    assert op(caller, EvtchnOp.alloc_unbound, offer) == 0
    bind = EvtchnBindInterdomain(remote_dom=SELF, remote_port=offer.port)
    assert op(caller, EvtchnOp.bind_interdomain, bind) == 0
    caller.take_events()
    assert op(caller, EvtchnOp.send, EvtchnSend(port=offer.port)) == 0
    assert lab.hv.events.pending(caller.domain, bind.local_port)
    assert op(caller, EvtchnOp.reset, EvtchnReset(dom=SELF)) == 0
    assert all(status(caller, port).status == EvtchnStat.closed for port in range(1, 6))


def test_death_unbinds_the_other_end() -> None:
    lab = Lab()
    one, two = Caller(lab), Caller(lab)
    mine, _ = connect(one, two)
    two.call(Hypercall.sched_op_compat, SchedOp.shutdown, 0)
    lab.hv.reap()
    assert two.domain.id not in lab.hv.domains
    assert status(one, mine).status == EvtchnStat.unbound
    assert op(one, EvtchnOp.send, EvtchnSend(port=mine)) == 0
    lab.check()


def test_virqs() -> None:
    lab = Lab()
    caller = Caller(lab)
    bind = EvtchnBindVirq(virq=Virq.TIMER, vcpu=0)
    assert op(caller, EvtchnOp.bind_virq, bind) == 0
    assert op(caller, EvtchnOp.bind_virq, EvtchnBindVirq(virq=Virq.TIMER)) == -Errno.EEXIST
    out = EvtchnBindVirq(virq=NR_VIRQS)
    assert op(caller, EvtchnOp.bind_virq, out) == -Errno.EINVAL
    elsewhere = EvtchnBindVirq(virq=Virq.DEBUG, vcpu=1)
    assert op(caller, EvtchnOp.bind_virq, elsewhere) == -Errno.ENOENT
    machines = EvtchnBindVirq(virq=Virq.CONSOLE, vcpu=1)
    assert op(caller, EvtchnOp.bind_virq, machines) == -Errno.EINVAL
    assert (status(caller, bind.port).status, status(caller, bind.port).u.virq) == (4, 0)
    assert op(caller, EvtchnOp.send, EvtchnSend(port=bind.port)) == -Errno.EINVAL
    lab.hv.events.raise_virq(caller.domain, Virq.TIMER)
    lab.hv.events.raise_virq(caller.domain, Virq.DEBUG)  # nobody bound it
    assert shared(caller).evtchn_pending[0] == 1 << bind.port
    vcpu0 = EvtchnBindVcpu(port=bind.port, vcpu=0)
    assert op(caller, EvtchnOp.bind_vcpu, vcpu0) == -Errno.EINVAL
    assert op(caller, EvtchnOp.close, EvtchnClose(port=bind.port)) == 0
    assert op(caller, EvtchnOp.bind_virq, EvtchnBindVirq(virq=Virq.TIMER)) == 0


def test_ipi_and_bind_vcpu() -> None:
    caller = Caller(Lab())
    ipi = EvtchnBindIpi(vcpu=0)
    assert op(caller, EvtchnOp.bind_ipi, EvtchnBindIpi(vcpu=7)) == -Errno.ENOENT
    assert op(caller, EvtchnOp.bind_ipi, ipi) == 0
    assert op(caller, EvtchnOp.send, EvtchnSend(port=ipi.port)) == 0
    assert shared(caller).evtchn_pending[0] == 1 << ipi.port
    assert status(caller, ipi.port).status == EvtchnStat.ipi
    bound = EvtchnBindVcpu(port=ipi.port, vcpu=0)
    assert op(caller, EvtchnOp.bind_vcpu, bound) == -Errno.EINVAL
    assert op(caller, EvtchnOp.bind_vcpu, EvtchnBindVcpu(port=1, vcpu=0)) == 0
    assert op(caller, EvtchnOp.bind_vcpu, EvtchnBindVcpu(port=1, vcpu=1)) == -Errno.ENOENT
    assert op(caller, EvtchnOp.bind_vcpu, EvtchnBindVcpu(port=99, vcpu=0)) == -Errno.EINVAL


@pytest.mark.parametrize("port", [0, 77, 4096, 0xFFFF_FFFF])
def test_ports_that_are_not_there(port: int) -> None:
    caller = Caller(Lab())
    assert op(caller, EvtchnOp.send, EvtchnSend(port=port)) == -Errno.EINVAL
    assert op(caller, EvtchnOp.close, EvtchnClose(port=port)) == -Errno.EINVAL
    unmask = 0 if port < 64 else -Errno.EINVAL
    assert op(caller, EvtchnOp.unmask, EvtchnUnmask(port=port)) == unmask
    asked = EvtchnStatus(dom=SELF, port=port)
    assert op(caller, EvtchnOp.status, asked) == unmask
    bind = EvtchnBindInterdomain(remote_dom=SELF, remote_port=port)
    assert op(caller, EvtchnOp.bind_interdomain, bind) == -Errno.EINVAL


def test_other_domains_are_not_ones_own() -> None:
    lab = Lab()
    caller, other = Caller(lab), Caller(lab)
    for record, command in (
        (EvtchnAllocUnbound(remote_dom=SELF), EvtchnOp.alloc_unbound),
        (EvtchnStatus(port=1), EvtchnOp.status),
        (EvtchnReset(), EvtchnOp.reset),
    ):
        record.dom = other.domain.id
        assert op(caller, command, record) == -Errno.EPERM
        record.dom = 999
        assert op(caller, command, record) == -Errno.ESRCH
    gone = EvtchnBindInterdomain(remote_dom=999, remote_port=1)
    assert op(caller, EvtchnOp.bind_interdomain, gone) == -Errno.ESRCH
    caller.domain.privileged = True
    offer = EvtchnAllocUnbound(dom=other.domain.id, remote_dom=SELF)
    assert op(caller, EvtchnOp.alloc_unbound, offer) == 0
    bind = EvtchnBindInterdomain(remote_dom=other.domain.id, remote_port=offer.port)
    assert op(caller, EvtchnOp.bind_interdomain, bind) == 0


def test_wild_pointers_and_unknown_commands() -> None:
    caller = Caller(Lab())
    number = Hypercall.event_channel_op
    ports = dict(caller.hv.events._ports[caller.domain.id])
    for command in range(11):
        assert caller.call(number, command, 0x1000) == -Errno.EFAULT
        assert caller.call(number, command, 0xFFFF_8000_0000_0000) == -Errno.EFAULT
    for command in (11, 12, 13, 99):
        assert caller.call(number, command, caller.scratch) == -Errno.ENOSYS
    assert caller.call(Hypercall.event_channel_op_compat, 8) == -Errno.EFAULT
    # An answer that cannot be written: the arguments lie in the read-only page tables.
    assert caller.call(number, EvtchnOp.bind_ipi, caller.tables) == -Errno.EFAULT
    assert caller.hv.events._ports[caller.domain.id] == ports
    assert op(caller, EvtchnOp.bind_pirq, EvtchnBindPirq(pirq=3)) == -Errno.EPERM
    assert op(caller, EvtchnOp.bind_pirq, EvtchnBindPirq(pirq=4000)) == -Errno.EINVAL


def test_compat_form() -> None:
    caller = Caller(Lab())
    at = caller.put(int(EvtchnOp.bind_ipi).to_bytes(4, "little") + bytes(8))
    assert caller.call(Hypercall.event_channel_op_compat, at) == 0
    assert int.from_bytes(caller.get(4, 8), "little") == BUILDERS_PORTS + 1


def test_all_ports_used_up() -> None:
    caller = Caller(Lab())
    for _ in range(4095 - BUILDERS_PORTS):
        assert caller.hv.events.bind_ipi(caller.domain, 0) > 0
    assert op(caller, EvtchnOp.bind_ipi, EvtchnBindIpi()) == -Errno.ENOSPC
    offer = EvtchnAllocUnbound(dom=SELF, remote_dom=SELF)
    assert op(caller, EvtchnOp.alloc_unbound, offer) == -Errno.ENOSPC
    bind = EvtchnBindInterdomain(remote_dom=SELF, remote_port=1)
    assert op(caller, EvtchnOp.bind_interdomain, bind) == -Errno.ENOSPC
    assert op(caller, EvtchnOp.bind_virq, EvtchnBindVirq(virq=0)) == -Errno.ENOSPC
    assert op(caller, EvtchnOp.send, EvtchnSend(port=4095)) == 0
    info = shared(caller)
    assert info.evtchn_pending[63] == 1 << 63
    assert info.vcpu_info[0].evtchn_pending_sel == 1 << 63


def test_masks_and_unmask() -> None:
    caller = Caller(Lab())
    events, domain = caller.hv.events, caller.domain
    words = caller.hv.machine.memory.words
    port = events.bind_ipi(domain, 0)
    words[domain.shared_info * 512 + MASK_WORD] = 1 << port
    events.send(domain, port)
    info = shared(caller)
    assert info.evtchn_pending[0] == 1 << port
    assert (info.vcpu_info[0].evtchn_pending_sel, info.vcpu_info[0].evtchn_upcall_pending) == (0, 0)
    assert op(caller, EvtchnOp.unmask, EvtchnUnmask(port=port)) == 0
    info = shared(caller)
    assert info.evtchn_mask[0] == 0
    assert (info.vcpu_info[0].evtchn_pending_sel, info.vcpu_info[0].evtchn_upcall_pending) == (1, 1)


def test_an_event_wakes_who_blocks_and_who_blocks_with_one_pending_does_not() -> None:
    lab = Lab()
    one, two = Caller(lab), Caller(lab)
    mine, theirs = connect(one, two)
    two.take_events()
    assert two.call(Hypercall.sched_op, SchedOp.block) == 0
    assert two.domain.state is State.BLOCKED
    assert shared(two).vcpu_info[0].evtchn_upcall_mask == 0
    assert op(one, EvtchnOp.send, EvtchnSend(port=mine)) == 0
    assert two.domain.state is State.RUNNABLE
    assert two.call(Hypercall.sched_op, SchedOp.block) == 0
    assert two.domain.state is State.RUNNABLE
    assert lab.hv.events.pending(two.domain, theirs)


# Registers an event callback, binds an IPI, unmasks upcalls, sends, and counts what arrives.
UPCALL = """
    mov word ptr [rip + scratch + 512], 0           # CALLBACKTYPE_event
    lea rax, [rip + upcall]
    mov [rip + scratch + 520], rax
    lea rsi, [rip + scratch + 512]
    call 30, 0
    test rax, rax
    jnz bad
    lea rsi, [rip + scratch + 64]
    mov dword ptr [rsi], 0
    call 32, 7                                      # bind_ipi
    mov ebx, [rip + scratch + 68]
    mov [rip + scratch + 72], ebx
    lea rsi, [rip + scratch + 72]
    call 32, 4                                      # send: masked, nothing happens
    test r12, r12
    jnz bad
    call 29, 1                                      # block: unmasks, so the upcall comes now
    jmp bad
bad: ud2
upcall:
    inc r12
    cmp r12, 1
    je poweroff
    ud2
"""


def test_delivery_into_a_kernel() -> None:
    lab = Lab()
    domain = lab.boot(UPCALL)
    seen: list[int] = []
    hv = lab.hv
    hv.listen(lambda kind, *_: seen.append(hv.machine.cpu.words[12]) if kind == "exit" else None)
    assert hv.run(10_000)
    assert lab.exits[domain.id].reason == "poweroff", lab.exits[domain.id].report
    assert seen == [1]
    lab.check_empty()
