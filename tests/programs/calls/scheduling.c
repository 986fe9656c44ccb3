// cowbird: description = sched_op: yield, poll, unknown commands, bad pointers; vm_assist
// cowbird: environments = pv64, pv32, xen
/*
 * Source: sched.h; xen/common/sched/core.c (do_sched_op, do_poll).
 */
#include "cowbird.h"

int main(void)
{
    void *const bad = (void *)0x0000800000000000;
    evtchn_port_t port = (evtchn_port_t)bind_ipi(), wrong = 0x7fffffff;
    struct sched_poll poll = {.ports = &port, .nr_ports = 1};
    struct sched_remote_shutdown remote = {.domain_id = 1234};

    ktap_plan(15);
    ok_result(HYPERVISOR_sched_op(SCHEDOP_yield, NULL), 0, "yield");
    event_send(port);
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), 0, "poll, the port is pending");
    poll.ports = &wrong;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EINVAL, "poll, no such port");
    poll.ports = bad;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EFAULT, "poll, bad ports");
    poll.nr_ports = 129;
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), -EINVAL, "poll, more than 128 ports");
    poll = (struct sched_poll){.timeout = time_ns() + 100000};
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, &poll), 0, "poll, no ports but a time");
    ok(time_ns() >= poll.timeout, "which has come");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, bad), -EFAULT, "poll, a bad pointer");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_shutdown, bad), -EFAULT, "shutdown, a bad pointer");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_remote_shutdown, &remote), -ESRCH, "no such domain");
    ok_result(HYPERVISOR_sched_op(8, NULL), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_enable, VMASST_TYPE_pae_extended_cr3), 0, "vm_assist");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_enable, 31), -EINVAL, "no such assist");
    ok_result(HYPERVISOR_vm_assist(7, VMASST_TYPE_pae_extended_cr3), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_vm_assist(7, 31), -EINVAL, "neither");
    return 0;
}
