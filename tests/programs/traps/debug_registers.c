// cowbird: description = set_debugreg and get_debugreg: what a guest may set, what it reads
/* Xen: set_debugreg; breakpoints on its own range are refused, DR4 and DR5 alias DR6 and DR7. */

#include "cowbird.h"

int main(void)
{
    ktap_plan(10);
    ok_result(HYPERVISOR_set_debugreg(0, 0x1234), 0, "DR0");
    ok_value(HYPERVISOR_get_debugreg(0), 0x1234, "reads back");
    ok_result(HYPERVISOR_set_debugreg(3, VIRT_BASE), 0, "DR3 in the kernel");
    ok_value((uint64_t)HYPERVISOR_get_debugreg(3), VIRT_BASE, "reads back");
    ok_result(HYPERVISOR_set_debugreg(1, MACH2PHYS_VIRT_START), -EPERM, "not in Xen's range");
    ok_result(HYPERVISOR_set_debugreg(1, 0x800000000000), -EPERM, "nor a non-canonical one");
    ok_value(HYPERVISOR_get_debugreg(1), 0, "it stays as it was");
    ok_value((uint64_t)HYPERVISOR_get_debugreg(6) & 0xffff0ff0, 0xffff0ff0, "DR6's fixed bits");
    ok_value((uint64_t)HYPERVISOR_get_debugreg(7) & 0x400, 0x400, "DR7's");
    ok_result(HYPERVISOR_get_debugreg(8), -ENODEV, "there is no DR8");
    return 0;
}
