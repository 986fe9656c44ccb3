// cowbird: description = sched_op poll: what ends it: an event, a deadline, an upcall; what it refuses
/* Source: sched.h; xen/common/sched/core.c (do_poll). */
#include "cowbird.h"

static volatile unsigned long *word(volatile unsigned long *array, evtchn_port_t port)
{
    return &array[port / (8 * sizeof(unsigned long))];
}

static unsigned long bit(evtchn_port_t port)
{
    return 1UL << port % (8 * sizeof(unsigned long));
}

static void clear(evtchn_port_t port)
{
    __atomic_and_fetch(word(shared_info->evtchn_pending, port), ~bit(port), __ATOMIC_SEQ_CST);
    shared_info->vcpu_info[0].evtchn_upcall_pending = 0;
    shared_info->vcpu_info[0].evtchn_pending_sel = 0;
}

static long poll_for(evtchn_port_t *ports, unsigned int count, uint64_t timeout)
{
    struct sched_poll poll = {.ports = ports, .nr_ports = count, .timeout = timeout};

    return HYPERVISOR_sched_op(SCHEDOP_poll, &poll);
}

int main(void)
{
    evtchn_port_t ports[200], port = (evtchn_port_t)bind_ipi(), timer;
    uint64_t before;

    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    timer = (evtchn_port_t)bind_virq(VIRQ_TIMER);
    for (unsigned int i = 0; i < 200; i++)
        ports[i] = port;
    ktap_plan(25);
    before = time_ns();
    ok_result(poll_for(ports, 1, before + 2000000), 0, "a deadline");
    ok(time_ns() >= before + 2000000, "ends it, and not early");
    ok_result(poll_for(ports, 0, time_ns() + 500000), 0, "of no ports");
    ok_result(poll_for(ports, 1, 1), 0, "a deadline long past");
    event_send(port);
    ok_result(poll_for(ports, 1, 0), 0, "an event that is there already");
    ok_value((*word(shared_info->evtchn_pending, port) & bit(port)) != 0, 1, "stays there");
    ok_result(poll_for(ports, 128, 0), 0, "128 ports");
    ok_result(poll_for(ports, 129, 0), -EINVAL, "129");
    ok_result(poll_for(ports, 0xffffffff, 0), -EINVAL, "very many");
    ports[1] = 64;
    ok_result(poll_for(ports, 1, 0), 0, "a port behind is not looked at");
    clear(port);
    ok_result(poll_for(ports, 2, 0), -EINVAL, "one that is no port is refused");
    ports[1] = 63;
    ok_result(poll_for(ports, 2, time_ns() + 100000), -EINVAL, "nor is one that is closed taken");
    ports[1] = 0xffffffff;
    ok_result(poll_for(ports, 2, 0), -EINVAL, "nor such");
    ok_result(poll_for((evtchn_port_t *)0x5000, 1, 0), -EFAULT, "ports that are not there");
    ok_result(HYPERVISOR_sched_op(SCHEDOP_poll, (void *)0x5000), -EFAULT, "nor the argument");

    /* A masked port: poll is made for those. */
    ports[1] = port;
    __atomic_or_fetch(word(shared_info->evtchn_mask, timer), bit(timer), __ATOMIC_SEQ_CST);
    ports[0] = timer;
    before = time_ns();
    HYPERVISOR_set_timer_op(before + 1000000);
    ok_result(poll_for(ports, 1, 0), 0, "the timer ends it");
    ok(time_ns() >= before + 1000000, "when it is due");
    ok_value(shared_info->vcpu_info[0].evtchn_upcall_pending, 0, "without an upcall");
    clear(timer);
    before = time_ns();
    HYPERVISOR_set_timer_op(before + 1000000);
    ok_result(poll_for(ports, 2, 0), 0, "with two ports too");
    clear(timer);
    HYPERVISOR_set_timer_op(time_ns() + 1000000);
    ok_result(poll_for(ports, 1, before + 900000000), 0, "before a later deadline");
    ok(time_ns() < before + 500000000, "which then does not matter");
    clear(timer);

    /* An upcall that is pending and not masked ends it at once; so it is never waited for. */
    __atomic_and_fetch(word(shared_info->evtchn_mask, timer), ~bit(timer), __ATOMIC_SEQ_CST);
    before = time_ns();
    HYPERVISOR_set_timer_op(before + 1000000);
    ports[0] = port;
    ok_result(poll_for(ports, 1, before + 3000000), 0, "another port's event, while upcalls are masked");
    ok_value(shared_info->vcpu_info[0].evtchn_upcall_pending, 1, "is pending");
    ok(time_ns() >= before + 1000000, "after its time");
    ok_result(poll_for(ports, 1, time_ns() + 200000), 0, "and again");
    return 0;
}
