// cowbird: description = event_channel_op: each error answer
// cowbird: environments = pv64, pv32, xen
/*
 * Source: event_channel.h; xen/common/event_channel.c.
 */
#include "cowbird.h"

#define CALL(command, type, ...)                                                               \
    HYPERVISOR_event_channel_op(EVTCHNOP_##command, &(struct type){__VA_ARGS__})

int main(void)
{
    void *const bad = (void *)0x0000800000000000;
    evtchn_port_t port;

    ktap_plan(20);
    ok_result(HYPERVISOR_event_channel_op(99, NULL), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_send, bad), -EFAULT, "a bad pointer");
    ok_result(CALL(send, evtchn_send, 0), -EINVAL, "send: port 0");
    ok_result(CALL(send, evtchn_send, 3000), -EINVAL, "send: a port not in use");
    ok_result(CALL(send, evtchn_send, 0xffffffff), -EINVAL, "send: no such port");
    ok_result(CALL(close, evtchn_close, 3000), -EINVAL, "close: a port not in use");
    ok_result(CALL(close, evtchn_close, 0xffffffff), -EINVAL, "close: no such port");
    ok_result(CALL(unmask, evtchn_unmask, 0xffffffff), -EINVAL, "unmask: no such port");
    ok_result(CALL(bind_virq, evtchn_bind_virq, 24, 0), -EINVAL, "bind_virq: no such VIRQ");
    ok_result(CALL(bind_virq, evtchn_bind_virq, VIRQ_TIMER, 9), -ENOENT, "bind_virq: no such vCPU");
    port = (evtchn_port_t)bind_virq(VIRQ_TIMER);
    ok(port > 0, "bind_virq: the timer");
    ok_result(CALL(bind_virq, evtchn_bind_virq, VIRQ_TIMER, 0), -EEXIST, "bind_virq: twice");
    ok_result(CALL(bind_vcpu, evtchn_bind_vcpu, port, 0), -EINVAL, "bind_vcpu: not a VIRQ's port");
    ok_result(CALL(bind_vcpu, evtchn_bind_vcpu, port, 9), -ENOENT, "bind_vcpu: no such vCPU");
    ok_result(CALL(send, evtchn_send, port), -EINVAL, "send: not to a VIRQ's port");
    ok_result(CALL(bind_ipi, evtchn_bind_ipi, 9), -ENOENT, "bind_ipi: no such vCPU");
    ok_result(CALL(alloc_unbound, evtchn_alloc_unbound, 1234, DOMID_SELF), -ESRCH,
              "alloc_unbound: no such domain");
    ok_result(CALL(bind_interdomain, evtchn_bind_interdomain, 1234, 1), -ESRCH,
              "bind_interdomain: no such domain");
    ok_result(CALL(bind_interdomain, evtchn_bind_interdomain, DOMID_SELF, port), -EINVAL,
              "bind_interdomain: a port that is not unbound");
    ok_result(CALL(status, evtchn_status, DOMID_SELF, 0xffffffff), -EINVAL, "status: no such port");
    return 0;
}
