// cowbird: description = iret whose frame cannot be read ends the domain
// cowbird: expected = CRASH
/* Xen: do_iret, copy_from_guest of struct iret_context. */

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    console_flush();
    __asm__ volatile("mov %0, %%rsp; syscall" : : "r"(0x5000UL), "a"(__HYPERVISOR_iret));
    return 0;
}
