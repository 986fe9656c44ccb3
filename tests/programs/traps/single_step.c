// cowbird: description = TF: #DB behind each instruction, also over popf, rep and pushf
// cowbird: environments = pv64, pv32, xen
/*
 * With RFLAGS.TF set an instruction is followed by #DB with DR6.BS, unless it has set TF itself
 * (SDM 3B, 17.3.1.4). The handler runs with TF clear; TF is set in the frame. Each iteration of
 * a rep counts as one.
 */

#include "cowbird.h"

static unsigned long steps[16];
static unsigned int count, in_frame;
static uint64_t dr6;

static bool on_debug(struct regs *regs)
{
    if (count < ARRAY_SIZE(steps))
        steps[count] = regs->rip;
    count++;
    in_frame += (regs->rflags & FLAGS_TF) != 0;
    dr6 = (uint64_t)HYPERVISOR_get_debugreg(6);
    return true;
}

extern char step_1[], step_2[], step_3[], step_end[], user_step[];

int main(void)
{
    static char buffer[8];
    unsigned long pushed;

    ktap_plan(9);
    set_handler(TRAP_DB, on_debug);
    __asm__ volatile("pushf\n"
                     "orl $0x100, (" STACK_POINTER ")\n"
                     "popf\n"
                     "        nop\n"
                     "step_1: nop\n"
                     "step_2: pushf\n"
                     "step_3: andl $~0x100, (" STACK_POINTER ")\n"
                     "        popf\n"
                     "step_end:\n"
                     : : : "memory", "cc");
    ok_value(count, 5, "popfq that sets TF is not followed by #DB, the one that clears it is");
    ok(steps[0] == (unsigned long)step_1 && steps[1] == (unsigned long)step_2 &&
       steps[2] == (unsigned long)step_3 && steps[4] == (unsigned long)step_end, "rip is at the next one");
    ok_value(in_frame, 4, "TF is set in each frame but the last");
    ok_value(dr6 & 0x4000, 0x4000, "DR6.BS");

    count = 0;
    __asm__ volatile("pushf\n"
                     "orl $0x100, (" STACK_POINTER ")\n"
                     "popf\n"
                     "rep stosb\n"
                     "pushf\n"
                     "pop %0\n"
                     "push %0\n"
                     "andl $~0x100, (" STACK_POINTER ")\n"
                     "popf\n"
                     : "=r"(pushed)
                     : "D"(buffer), "c"(3), "a"('x')
                     : "memory", "cc");
    ok_value(count, 3 + 5, "rep stosb of 3: three");
    ok(!memcmp(buffer, "xxx\0", 4), "and it stores 3 bytes");
    ok(pushed & FLAGS_TF, "pushfq shows TF");

    ok_result(HYPERVISOR_set_debugreg(6, 0xffff0ff0), 0, "DR6 is cleared by set_debugreg");
    ok_value(HYPERVISOR_get_debugreg(6) & 0x4000, 0, "and reads so");
    return 0;
}
