// cowbird: description = pushf and popf of a PV kernel: IF and IOPL cannot be changed, and read as the hardware's
// cowbird: environments = pv64, pv32, xen
/*
 * At CPL 3, or 1, with IOPL 0, POPF leaves IF and IOPL as they are (SDM volume 2, POPF). The virtual
 * interrupt flag is evtchn_upcall_mask alone.
 */

#include "frame.h"

static unsigned long through_popf(unsigned long flags)
{
    unsigned long result;

    __asm__ volatile("push %1; popf; pushf; pop %0" : "=r"(result) : "r"(flags) : "cc", "memory");
    __asm__ volatile("push $2; popf" : : : "cc");
    return result;
}

int main(void)
{
    ktap_plan(6);
    ok_value(through_popf(2) & (FLAGS_IF | FLAGS_IOPL), FLAGS_IF, "IF stays set");
    ok_value(event_mask(), 1, "events stay masked");
    ok_value(through_popf(2 | FLAGS_IOPL) & FLAGS_IOPL, 0, "IOPL stays 0");
    ok_value(through_popf(FLAGS_NT | FLAGS_AC | FLAGS_ID | FLAGS_DF | FLAGS_CF) & 0x245401,
             FLAGS_NT | FLAGS_AC | FLAGS_ID | FLAGS_DF | FLAGS_CF, "NT, AC, ID, DF, CF are changed");
    ok_value(through_popf(0x1a8000) & 0x1a8000, 0, "VM, VIF, VIP and bit 15 are not");
    ok_value(through_popf(0) & 0x2a, 2, "bit 1 is set, bits 3 and 5 are clear");
    return 0;
}
