// cowbird: description = a program that waits for an event that nobody can send ends there: TIMEOUT
// cowbird: environments = pv64, pv32
// cowbird: expected = TIMEOUT
// cowbird: oracle = no: the real Xen would wait as long as the host does

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    console_flush();
    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    block();
    return 0;
}
