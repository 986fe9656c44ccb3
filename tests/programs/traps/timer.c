// cowbird: description = the timer: set_timer_op, the past, block until it fires, periodic and one-shot
// cowbird: environments = pv64, pv32, xen
/*
 * VIRQ_TIMER comes at an absolute system time in ns; 0 disarms. Times in the past fire at once
 * (Xen: do_set_timer_op). SCHEDOP_block unmasks events as it sleeps. A virq has one port per vCPU.
 */

#include "frame.h"

static volatile unsigned int fired;

static void on_timer(evtchn_port_t port)
{
    fired++;
}

static void wait_for(unsigned int count)
{
    while (fired < count)
        block();
}

int main(void)
{
    struct vcpu_set_periodic_timer too_fast = {.period_ns = 1000}, period = {.period_ns = 2000000};
    struct vcpu_set_singleshot_timer shot = {.timeout_abs_ns = 1, .flags = 1};
    struct evtchn_bind_virq again = {.virq = VIRQ_TIMER};
    uint64_t start, end;
    long port;

    ktap_plan(15);
    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    port = bind_virq(VIRQ_TIMER);
    ok(port > 0, "VIRQ_TIMER is bound");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_bind_virq, &again), -EEXIST, "but not twice");
    set_event_handler((evtchn_port_t)port, on_timer);
    start = time_ns();
    ok_result(HYPERVISOR_set_timer_op(start + 1000000), 0, "in a millisecond");
    wait_for(1);
    end = time_ns();
    ok(end >= start + 1000000, "it comes, and not early");
    ok_value(event_mask(), 0, "block has unmasked events");
    events_off();
    ok_result(HYPERVISOR_set_timer_op(1), 0, "a time long past");
    wait_for(2);
    ok_value(fired, 2, "fires at once");
    events_off();
    HYPERVISOR_set_timer_op(time_ns() + 1000000000);
    ok_result(HYPERVISOR_set_timer_op(0), 0, "0 disarms");
    shot.timeout_abs_ns = time_ns() + 500000;
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0, "a one-shot timer");
    wait_for(3);
    ok_value(fired, 3, "fires");
    events_off();
    shot.timeout_abs_ns = 1;
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0,
              "VCPU_SSHOTTMR_future does not refuse the past: Xen ignores it since 4.17.2");
    wait_for(4);
    ok_value(fired, 4, "and fires at once");
    events_off();
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_periodic_timer, 0, &too_fast), -EINVAL,
              "a period below a millisecond is refused");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0, "2 ms is not");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "and is stopped");
    return 0;
}
