// cowbird: description = vcpu_op: is_up, up, other vCPUs, initialise, get_physid, bad arguments
// cowbird: environments = pv64, pv32, xen
/* vcpu.h. There is one vCPU here, number 0. */

#include "cowbird.h"

int main(void)
{
    static char context[8192];

    ktap_plan(8);
    ok_value(HYPERVISOR_vcpu_op(VCPUOP_is_up, 0, NULL), 1, "vCPU 0 is up");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_up, 0, NULL), 0, "up: it is");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_is_up, 1, NULL), -ENOENT, "there is no vCPU 1");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_is_up, ~0U, NULL), -ENOENT, "nor a last one");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_initialise, 0, context), -EEXIST, "it is initialised");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_initialise, 0, (void *)0x5000), -EFAULT, "a context that is not there");
    ok_result(HYPERVISOR_vcpu_op(99, 0, NULL), -ENOSYS, "an unknown command");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_periodic_timer, 0, (void *)0x5000), -EFAULT, "an argument that is not there");
    return 0;
}
