// cowbird: description = a fault while the stack is not mapped ends the domain: no frame, no handler
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH
/*
 * Xen cannot build the bounce frame (a fault in create_bounce_frame) and crashes the domain; a PV
 * guest has no task gate that could help it.
 */

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    console_flush();
    __asm__ volatile("mov %0, " STACK_POINTER "; ud2" : : "r"(0x5000UL));
    return 0;
}
