// cowbird: description = a stack in Xen's own address range ends the domain, and writes nothing there
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH
/*
 * The frame is written with Xen's rights: were the range not checked, a guest could have Xen
 * overwrite its M2P or worse (Xen: create_bounce_frame compares with HYPERVISOR_VIRT_START).
 */

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    console_flush();
    __asm__ volatile("mov %0, " STACK_POINTER "; ud2" : : "r"(MACH2PHYS_VIRT_START + 0x800));
    return 0;
}
