// cowbird: description = watchdogs: two of them, set anew, given up, misused
// cowbird: environments = pv64, pv32, xen
/* sched.h, SCHEDOP_watchdog: id 0 asks for one; timeout 0 gives it up. Xen's -ENOSPC comes as a 32-bit number. */

#include "cowbird.h"

static long watchdog(uint32_t id, uint32_t seconds)
{
    struct sched_watchdog argument = {.id = id, .timeout = seconds};

    return HYPERVISOR_sched_op(SCHEDOP_watchdog, &argument);
}

int main(void)
{
    ktap_plan(10);
    ok_result(watchdog(1, 10), -EINVAL, "the first is not in use");
    ok_value(watchdog(0, 100), 1, "it is given");
    ok_value(watchdog(0, 100), 2, "and the second");
    ok_value((int)watchdog(0, 100), -ENOSPC, "there is no third");
    ok_result(watchdog(1, 200), 0, "the first is set anew");
    ok_result(watchdog(1, 0), 0, "and given up");
    ok_result(watchdog(1, 100), -EINVAL, "then it is not in use");
    ok_result(watchdog(3, 100), -EINVAL, "nor is number 3 ever");
    ok_value(watchdog(0, 100), 1, "the first can be had again");
    watchdog(1, 0);
    ok_result(watchdog(2, 0), 0, "both are given up");
    return 0;
}
