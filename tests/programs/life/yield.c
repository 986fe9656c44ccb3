// cowbird: description = yield, block and poll: when they return, what they refuse
// cowbird: environments = pv64, pv32, xen
/*
 * sched.h. block returns at once if an upcall is pending, and unmasks events; poll waits for one of
 * its ports to be pending, masked or not, without an upcall, or until its timeout.
 */

#include "cowbird.h"

int main(void)
{
    evtchn_port_t port = (evtchn_port_t)bind_ipi(), bad = 1 << 20;
    struct sched_poll poll = {.ports = &port, .nr_ports = 1};
    uint64_t start;

    ktap_plan(13);
    ok_result(HYPERVISOR_sched_op(SCHEDOP_yield, NULL), 0, "yield");
    start = time_ns();
    poll.timeout = start + 1000000;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), 0, "poll for a millisecond");
    ok(time_ns() >= start + 1000000, "it has waited");
    poll.timeout = 1;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), 0, "a timeout in the past: returns");
    poll.timeout = 0;
    event_send(port);
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), 0, "a pending port: returns");
    ok(shared_info->evtchn_pending[0] >> port & 1, "the port stays pending");
    ok_value(shared_info->vcpu_info[0].evtchn_upcall_mask, 1, "and events masked");
    poll.nr_ports = 129;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EINVAL, "more than 128 ports");
    poll.nr_ports = 1;
    poll.ports = &bad;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EINVAL, "a port that cannot be");
    poll.ports = (evtchn_port_t *)0x5000;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EFAULT, "ports that are not there");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, (void *)0x5000), -EFAULT, "an argument that is not");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_block, NULL), 0, "block with an event pending: returns");
    ok_value(shared_info->vcpu_info[0].evtchn_upcall_mask, 0, "with events unmasked");
    events_off();
    return 0;
}
