// cowbird: description = runstate: running, times that add up, a registered area that is kept
// cowbird: environments = pv64, pv32, xen
/* vcpu.h: time in each state since boot, in ns; the area is written whenever the vCPU is scheduled. */

#include "cowbird.h"

static struct vcpu_runstate_info area, info, later;

int main(void)
{
    struct vcpu_register_runstate_memory_area where = {.addr.v = &area};

    ktap_plan(10);
    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_get_runstate_info, 0, &info), 0, "asked for");
    ok_value(info.state, RUNSTATE_running, "who asks is running");
    ok(info.time[RUNSTATE_running] > 0, "and has been");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_runstate_memory_area, 0, &where), 0, "registered");
    ok_value(area.state, RUNSTATE_running, "the area is written at once");
    bind_virq(VIRQ_TIMER);
    HYPERVISOR_set_timer_op(time_ns() + 3000000);
    block();
    events_off();
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_get_runstate_info, 0, &later), 0, "3 ms later");
    ok(later.time[RUNSTATE_blocked] >= info.time[RUNSTATE_blocked] + 2500000, "it was blocked so long");
    ok(later.time[RUNSTATE_running] >= info.time[RUNSTATE_running], "it has run on");
    ok(area.time[RUNSTATE_blocked] >= info.time[RUNSTATE_blocked] + 2500000, "the area says so");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_get_runstate_info, 0, (void *)0x5000), -EFAULT,
              "an address that is not there");
    return 0;
}
