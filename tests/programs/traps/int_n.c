// cowbird: description = int n: gates of DPL 3 are open, others are #GP(vector * 8 + 2)
// cowbird: environments = pv64, pv32, xen
// cowbird: difference = QEMU 7.2 pushes vector*16+2 for int n against a closed gate (mended in QEMU 8.0), so Xen looks at the gate of twice the vector
/*
 * Xen's own gates have DPL 0, so `int n` of a PV guest is #GP(n*8+2) in hardware; Xen then looks at
 * the DPL in the guest's trap table and enters the handler behind the instruction, or passes the
 * #GP on (Xen: do_general_protection; SDM 3A, 6.12.1.1). A kernel counts as ring 1.
 */

#include "cowbird.h"

static unsigned int seen;
static unsigned long seen_rip = VIRT_BASE + 2;

static bool count(struct regs *regs)
{
    seen++;
    seen_rip = regs->rip;
    return true;
}

static void int_0x21(void *unused)
{
    __asm__ volatile("int $0x21");
}

static long user_int_0x21(long unused)
{
    __asm__ volatile("int $0x21");
    return 7;
}

int main(void)
{
    long value = 0;

    ktap_plan(11);
    ok_fault(catch_fault(int_0x21, NULL), GP(0x21 << 3 | 2), "no entry: #GP with the IDT bit");
    set_handler(0x21, count);
    set_trap_dpl(0x21, 0);
    ok_fault(catch_fault(int_0x21, NULL), GP(0x21 << 3 | 2), "DPL 0: closed even to the kernel");
    set_trap_dpl(0x21, 1);
    ok_fault(catch_fault(int_0x21, NULL), NO_FAULT, "DPL 1: open to the kernel");
    ok_value(seen, 1, "the handler ran");
    ok_value(*(uint16_t *)(seen_rip - 2), 0x21cd, "and saw the rip behind the instruction");
    ok_fault(user_run(user_int_0x21, 0, &value), GP(0x21 << 3 | 2), "but not to the user");
    ok_value(*(uint16_t *)last_fault()->rip, 0x21cd, "whose rip is at the instruction");
    set_trap_dpl(0x21, 2);
    ok_fault(user_run(user_int_0x21, 0, &value), GP(0x21 << 3 | 2), "DPL 2: nor now");
    set_trap_dpl(0x21, 3);
    ok_fault(user_run(user_int_0x21, 0, &value), NO_FAULT, "DPL 3: open");
    ok_value(value, 7, "and the user goes on behind it");
    ok_value(seen, 2, "the handler ran again");
    return 0;
}
