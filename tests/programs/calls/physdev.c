// cowbird: description = physdev_op: the I/O privilege level; what a guest without devices is told
// cowbird: environments = pv64, pv32, xen
/* Source: physdev.h; xen/arch/x86/physdev.c. What only the first domain may ask is left out. */
#include "cowbird.h"

int main(void)
{
    struct physdev_set_iopl iopl = {.iopl = 4};

    ktap_plan(9);
    ok_result(HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &iopl), -EINVAL, "IOPL 4");
    iopl.iopl = 3;
    ok_result(HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "IOPL 3");
    iopl.iopl = 0;
    ok_result(HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "IOPL 0");
    ok_result(HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, (void *)0x5000), -EFAULT, "nothing there");
    ok_result(HYPERVISOR_physdev_op(99, &iopl), -ENOSYS, "no such operation");
    ok_result(HYPERVISOR_physdev_op(0, &iopl), -ENOSYS, "nor such");
    ok_result(HYPERVISOR_physdev_op(18, &iopl), -ENOSYS, "nor such");
    ok_result(HYPERVISOR_physdev_op(22, &iopl), -ENOSYS, "nor such");
    ok_result(HYPERVISOR_physdev_op(0xffffffff, &iopl), -ENOSYS, "nor such");
    return 0;
}
