// cowbird: description = pushf and popf of a PV kernel: IF and IOPL cannot be changed, and read as the hardware's
/*
 * At CPL 3 with IOPL 0, POPF leaves IF and IOPL as they are (SDM volume 2, POPF). The virtual
 * interrupt flag is evtchn_upcall_mask alone.
 */

#include "frame.h"

static uint64_t through_popf(uint64_t flags)
{
    uint64_t result;

    __asm__ volatile("push %1; popfq; pushfq; pop %0" : "=r"(result) : "r"(flags) : "cc", "memory");
    __asm__ volatile("push $2; popfq" : : : "cc");
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
