// cowbird: description = iret to user mode without a user's page table ends the domain
// cowbird: expected = CRASH
/* Xen: do_iret, toggle_guest_pt. */

#include "cowbird.h"

int main(void)
{
    struct regs regs = {.rip = 0x1000, .cs = FLAT_USER_CS, .ss = FLAT_USER_SS, .rflags = 2};

    ktap_plan(1);
    console_flush();
    trap_return(&regs);
}
