// cowbird: description = mov to CR3 in a PV kernel flushes, since Xen emulates it; invlpg is a #GP
// cowbird: environments = pv64, pv32, xen
/*
 * Both are privileged and raise #GP in ring 3, and 1. Xen does for the guest what mov to CR3 means; of
 * invlpg it knows nothing and hands the #GP on (guests have MMUEXT_INVLPG_LOCAL).
 *
 * Source: xen/arch/x86/pv/emul-priv-op.c.
 */
#include "cowbird.h"

static char *page;

static void protect(void)
{
    pte_protect(page, PTE_RW);
    probe_write(page);
    HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(va_mfn(page), PTE_RO), UVMF_NONE);
}

static void invlpg(void *va)
{
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static void reload_cr3(void *unused)
{
    unsigned long cr3;

    __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(cr3) : : "memory");
}

static void read_cr3(void *argument)
{
    __asm__ volatile("mov %%cr3, %0" : "=r"(*(unsigned long *)argument));
}

int main(void)
{
    unsigned long cr3 = 0;

    page = page_alloc();
    ktap_plan(5);
    ok_fault(catch_fault(invlpg, page), GP(0), "invlpg");
    protect();
    ok_fault(catch_fault(reload_cr3, NULL), NO_FAULT, "mov to CR3, the same");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "a write sees the update");
    ok_fault(catch_fault(read_cr3, &cr3), NO_FAULT, "mov from CR3");
    ok_value(cr3, l4_current() << PAGE_SHIFT, "is the table that the guest loaded");
    return 0;
}
