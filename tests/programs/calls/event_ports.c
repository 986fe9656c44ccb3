// cowbird: description = ports bound to oneself, to VIRQs and IPIs: status, masks, unmask, closing, reset
// cowbird: environments = pv64, pv32, xen
/*
 * Source: event_channel.h; xen/common/event_channel.c, event_2l.c.
 */
#include "cowbird.h"

#define CALL(command, type, ...)                                                               \
    HYPERVISOR_event_channel_op(EVTCHNOP_##command, &(struct type){__VA_ARGS__})

static struct evtchn_status state;

static long status(evtchn_port_t port)
{
    long answer;

    memset(&state, 0x77, sizeof(state));
    state.dom = DOMID_SELF;
    state.port = port;
    answer = HYPERVISOR_event_channel_op(EVTCHNOP_status, &state);
    return answer ? answer : (long)state.status;
}

static volatile unsigned long *word(volatile unsigned long *array, evtchn_port_t port)
{
    return &array[port / (8 * sizeof(unsigned long))];
}

static unsigned long bit(evtchn_port_t port)
{
    return 1UL << port % (8 * sizeof(unsigned long));
}

static bool pending(evtchn_port_t port)
{
    return (*word(shared_info->evtchn_pending, port) & bit(port)) != 0;
}

static void clear(evtchn_port_t port)
{
    __atomic_and_fetch(word(shared_info->evtchn_pending, port), ~bit(port), __ATOMIC_SEQ_CST);
    shared_info->vcpu_info[0].evtchn_upcall_pending = 0;
    shared_info->vcpu_info[0].evtchn_pending_sel = 0;
}

static void set_mask(evtchn_port_t port, bool masked)
{
    if (masked)
        __atomic_or_fetch(word(shared_info->evtchn_mask, port), bit(port), __ATOMIC_SEQ_CST);
    else
        __atomic_and_fetch(word(shared_info->evtchn_mask, port), ~bit(port), __ATOMIC_SEQ_CST);
}

int main(void)
{
    volatile struct vcpu_info *vcpu = &shared_info->vcpu_info[0];
    struct evtchn_alloc_unbound offer = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_bind_interdomain bind = {.remote_dom = DOMID_SELF};
    struct evtchn_bind_virq virq = {.virq = VIRQ_DEBUG};
    struct evtchn_bind_ipi ipi = {.vcpu = 0};
    evtchn_port_t a, b;

    ktap_plan(64);
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &offer), 0, "a port");
    a = offer.port;
    ok_result(status(a), EVTCHNSTAT_unbound, "unbound");
    ok(state.u.unbound.dom != 0x7777, "for whom");
    ok_value(state.vcpu, 0, "on vCPU 0");
    ok_result(CALL(send, evtchn_send, a), 0, "sending from it");
    ok(!pending(a), "goes nowhere");
    bind.remote_port = a;
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_interdomain, &bind), 0, "bound");
    b = bind.local_port;
    ok_result(status(a), EVTCHNSTAT_interdomain, "one end");
    ok_value(state.u.interdomain.port, b, "knows the other");
    ok_result(status(b), EVTCHNSTAT_interdomain, "the other");
    ok_value(state.u.interdomain.port, a, "knows the one");
    ok(pending(b), "binding raises it");
    clear(b);
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_interdomain, &bind), -EINVAL, "not twice");
    ok_result(CALL(send, evtchn_send, a), 0, "sent one way");
    ok(pending(b) && !pending(a), "arrives");
    clear(b);
    ok_result(CALL(send, evtchn_send, b), 0, "the other way");
    ok(pending(a) && !pending(b), "arrives");
    ok(vcpu->evtchn_upcall_pending && (vcpu->evtchn_pending_sel & 1), "with the rest");
    clear(a);

    set_mask(a, true);
    ok_result(CALL(send, evtchn_send, b), 0, "to a masked port");
    ok(pending(a), "is pending");
    ok_value(vcpu->evtchn_upcall_pending, 0, "and no more");
    ok_value(vcpu->evtchn_pending_sel, 0, "not even its group");
    ok_result(CALL(send, evtchn_send, b), 0, "again");
    ok_result(CALL(unmask, evtchn_unmask, a), 0, "unmasked");
    ok_value(*word(shared_info->evtchn_mask, a) & bit(a), 0, "its mask is clear");
    ok_value(vcpu->evtchn_upcall_pending, 1, "and it comes");
    ok_value(vcpu->evtchn_pending_sel & 1, 1, "with its group");
    clear(a);
    ok_result(CALL(unmask, evtchn_unmask, a), 0, "unmasked with nothing pending");
    ok_value(vcpu->evtchn_upcall_pending, 0, "nothing comes");
    ok_result(CALL(unmask, evtchn_unmask, 60), 0, "unmask of a port not in use is taken");
    ok_result(CALL(unmask, evtchn_unmask, 64), -EINVAL, "but not beyond those in use");
    ok_result(status(63), EVTCHNSTAT_closed, "such a port is closed");
    ok_result(status(64), -EINVAL, "the next is none");

    ok_result(CALL(bind_vcpu, evtchn_bind_vcpu, a, 0), 0, "an interdomain port moves to a vCPU");
    ok_result(CALL(close, evtchn_close, b), 0, "one end is closed");
    ok_result(status(b), EVTCHNSTAT_closed, "it is");
    ok_result(status(a), EVTCHNSTAT_unbound, "and the other is unbound");
    ok_result(CALL(send, evtchn_send, b), -EINVAL, "not to a closed one");
    ok_result(CALL(close, evtchn_close, b), -EINVAL, "nor closed twice");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &offer), 0, "a new port");
    ok_value(offer.port, b, "is the lowest free one");
    ok_result(CALL(close, evtchn_close, a), 0, "closed");
    ok_result(CALL(close, evtchn_close, b), 0, "both");

    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_virq, &virq), 0, "VIRQ_DEBUG");
    ok_result(status(virq.port), EVTCHNSTAT_virq, "a VIRQ's port");
    ok_value(state.u.virq, VIRQ_DEBUG, "says which");
    ok_result(CALL(bind_vcpu, evtchn_bind_vcpu, virq.port, 0), -EINVAL, "one per vCPU stays there");
    ok_result(CALL(close, evtchn_close, virq.port), 0, "closed");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_virq, &virq), 0, "it can be bound again");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_ipi, &ipi), 0, "an IPI");
    ok_result(status(ipi.port), EVTCHNSTAT_ipi, "its port");
    ok_result(CALL(bind_vcpu, evtchn_bind_vcpu, ipi.port, 0), -EINVAL, "stays too");
    ok_result(CALL(send, evtchn_send, ipi.port), 0, "sent to oneself");
    ok(pending(ipi.port), "arrives");
    ok_result(CALL(close, evtchn_close, ipi.port), 0, "closed while pending");
    ok(!pending(ipi.port), "it is no longer");
    clear(ipi.port);

    bind.remote_port = 3000;
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_interdomain, &bind), -EINVAL, "no port");
    ok_result(CALL(reset, evtchn_reset, 999), -ESRCH, "reset of nobody");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &offer), 0, "a port");
    ok_result(CALL(reset, evtchn_reset, DOMID_SELF), 0, "reset");
    ok_result(status(offer.port), EVTCHNSTAT_closed, "closes it");
    ok_result(status(virq.port), EVTCHNSTAT_closed, "and the VIRQ's");
    ok_result(status(0), EVTCHNSTAT_closed, "port 0 is never in use");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &offer), 0, "ports go on");
    return 0;
}
