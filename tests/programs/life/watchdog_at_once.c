// cowbird: description = a watchdog of 0 seconds: granted, and the domain ends
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    struct sched_watchdog argument = {.timeout = 0};

    ktap_plan(1);
    console_flush();
    HYPERVISOR_sched_op(SCHEDOP_watchdog, &argument);
    for (;;)
        block();
}
