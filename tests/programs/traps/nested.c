// cowbird: description = faults inside handlers: #PF in the #PF handler, three deep, all returned from
// cowbird: environments = pv64, pv32, xen
/*
 * Each fault in kernel mode builds its frame on the stack where it stands, so handlers nest as far
 * as the stack goes. CR2 in shared_info is that of the last fault, so a handler reads it first.
 */

#include "cowbird.h"

static unsigned int depth, deepest, calls;
static unsigned long cr2[4], cr2_after;

/* Touches an absent page again until three are open, then skips each access. */
static bool on_fault(struct regs *regs)
{
    unsigned int mine = depth++;

    calls++;
    cr2[mine] = regs->cr2;
    if (depth > deepest)
        deepest = depth;
    if (depth < 3) {
        __asm__ volatile("movb (%0), %%al" : : "a"((depth + 1) * 0x10000UL) : "memory");
        if (!mine)
            cr2_after = shared_info->vcpu_info[0].arch.cr2;
    }
    depth--;
    regs->rip += 2; /* movb (%rax), %al */
    return true;
}

static bool on_ud(struct regs *regs)
{
    regs->rax = (unsigned long)probe_read((void *)0x7000);
    regs->rip += 2;
    return true;
}

int main(void)
{
    unsigned long rax = 0;

    ktap_plan(9);
    set_handler(TRAP_PF, on_fault);
    __asm__ volatile("movb (%0), %%al" : : "a"(0x10000UL) : "memory");
    ok_value(calls, 3, "three faults");
    ok_value(deepest, 3, "each inside the one before");
    ok_value(cr2[0], 0x10000, "the first one's address");
    ok_value(cr2[1], 0x20000, "the second one's");
    ok_value(cr2[2], 0x30000, "the third one's");
    ok_value(cr2_after, 0x30000, "CR2 in shared_info stays that of the last");
    ok_value(depth, 0, "all have returned");
    set_handler(TRAP_PF, NULL);
    set_handler(TRAP_UD, on_ud);
    __asm__ volatile("ud2" : "+a"(rax));
    ok_fault((fault_t)rax, PF(0), "a #PF caught inside the #UD handler");
    ok_value(shared_info->vcpu_info[0].arch.cr2, 0x7000, "with its CR2");
    return 0;
}
