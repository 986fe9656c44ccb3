// cowbird: description = the end of a program is SCHEDOP_shutdown with reason poweroff
// cowbird: environments = pv64, pv32, xen
/* sched.h. The call does not come back. */

#include "cowbird.h"

int main(void)
{
    struct sched_shutdown how = {.reason = SHUTDOWN_poweroff};

    ktap_plan(3);
    ok_result(HYPERVISOR_sched_op(SCHEDOP_shutdown, (void *)0x5000), -EFAULT, "an argument that is not there");
    ok_result(HYPERVISOR_sched_op(99, NULL), -ENOSYS, "an unknown operation");
    ok(true, "still here");
    HYPERVISOR_sched_op(SCHEDOP_shutdown, &how);
    printf("not ok 4 - it came back\n");
    return 0;
}
