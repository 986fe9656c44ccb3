// cowbird: description = VCPUOP_down of the only vCPU: the domain has nobody left to run
// cowbird: environments = pv64, pv32, xen

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    ok(true, "going down");
    console_flush();
    HYPERVISOR_vcpu_op(VCPUOP_down, 0, NULL);
    printf("not ok 2 - it came back\n");
    return 0;
}
