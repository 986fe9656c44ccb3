// cowbird: description = fpu_taskswitch and #NM; an x87 error is #MF
// cowbird: environments = pv64, pv32, xen
/*
 * A PV kernel sets the virtual CR0.TS by fpu_taskswitch; the next x87 instruction is #NM, and Xen
 * clears TS as it delivers it (Xen: do_device_not_available). An unmasked x87 exception is #MF at
 * the next waiting instruction (SDM 3A, 6.15), since Xen runs with CR0.NE.
 */

#include "cowbird.h"

static void fnop(void *unused)
{
    __asm__ volatile("fnop");
}

static void divide(void *unused)
{
    uint16_t control = 0x37b; /* zero divide unmasked */

    __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; fwait" : : "m"(control));
}

static long user_fnop(long unused)
{
    __asm__ volatile("fnop");
    return 0;
}

int main(void)
{
    ktap_plan(9);
    ok_fault(catch_fault(fnop, NULL), NO_FAULT, "TS is clear at first");
    ok_result(HYPERVISOR_fpu_taskswitch(1), 0, "set");
    ok_fault(catch_fault(fnop, NULL), FAULT(TRAP_NM, 0), "an x87 instruction is #NM");
    ok_fault(catch_fault(fnop, NULL), NO_FAULT, "once: TS is clear again");
    HYPERVISOR_fpu_taskswitch(1);
    ok_result(HYPERVISOR_fpu_taskswitch(0), 0, "cleared by hand");
    ok_fault(catch_fault(fnop, NULL), NO_FAULT, "no #NM");
    HYPERVISOR_fpu_taskswitch(1);
    ok_fault(user_run(user_fnop, 0, NULL), FAULT(TRAP_NM, 0), "in user mode too");
    ok_fault(catch_fault(divide, NULL), FAULT(TRAP_MF, 0), "1/0 unmasked is #MF");
    __asm__ volatile("fninit");
    ok_fault(catch_fault(fnop, NULL), NO_FAULT, "and goes with fninit");
    return 0;
}
