// cowbird: description = an exception without an entry in the trap table ends the domain
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    console_flush();
    HYPERVISOR_set_trap_table(NULL); /* clears all of it */
    __asm__ volatile("ud2");
    return 0;
}
