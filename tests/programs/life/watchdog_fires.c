// cowbird: description = a watchdog that is not set anew in time ends the domain
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH
/* SHUTDOWN_watchdog; the time passes while the domain is blocked. */

#include "cowbird.h"

int main(void)
{
    struct sched_watchdog argument = {.timeout = 1};

    ktap_plan(2);
    ok_value(HYPERVISOR_sched_op(SCHEDOP_watchdog, &argument), 1, "a second");
    console_flush();
    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    for (;;)
        block();
}
