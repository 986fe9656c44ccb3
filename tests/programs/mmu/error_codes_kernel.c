// cowbird: description = every #PF error code that a kernel can cause, and CR2
// cowbird: environments = pv64, pv32, xen
/*
 * The error code says why a walk failed: P the entry was there and its rights did not do, W a
 * write, I a fetch (with EFER.NXE). U is the guest's mode, not the hardware's: both of a 64-bit PV
 * guest's modes run in ring 3, and Xen clears U for faults of the kernel.
 *
 * Source: Intel SDM 3A, 4.7; xen/arch/x86/pv/traps.c.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *hole = window_alloc();

    ktap_plan(12);
    ok_fault(probe_read(hole + 1), PF(0), "read, absent");
    ok_fault(probe_write(hole + 2), PF(PF_W), "write, absent");
    ok_value(last_fault()->cr2, hole + 2, "CR2 is the address, to the byte");
    ok_fault(probe_exec(hole + 3), PF(PF_I), "fetch, absent");
    ok_value(last_fault()->cr2, hole + 3, "CR2 of a fetch");
    ok_value(last_fault()->rip, hole + 3, "which is where it was to go on");

    page_fill_ret(page);
    ok_result(pte_protect(page, PTE_RO | PTE_NX), 0, "a page that can only be read");
    ok_fault(probe_read(page), NO_FAULT, "read, allowed");
    ok_fault(probe_write(page + 4095), PF(PF_P | PF_W), "write, read-only");
    ok_value(last_fault()->cr2, page + 4095, "CR2");
    ok_fault(probe_exec(page), PF(PF_P | PF_I), "fetch, NX");
    ok_value(*page, (char)0xc3, "nothing was written");
    return 0;
}
