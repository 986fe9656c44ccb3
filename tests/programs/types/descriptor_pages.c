// cowbird: description = pages of the GDT have a type of their own: not writable, no page table
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/arch/x86/mm.c (PGT_seg_desc_page); pv/descriptor-tables.c.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *window = window_alloc();
    unsigned long mfn = va_mfn(page);

    ktap_plan(13);
    ok_result(HYPERVISOR_set_gdt(&mfn, 512), -EINVAL, "a writable page cannot be the GDT");
    ok_result(pte_protect(page, PTE_RO), 0, "read-only");
    ok_result(HYPERVISOR_set_gdt(&mfn, 512), 0, "it can");
    ok_result(pte_protect(page, PTE_RW), -EBUSY, "it cannot be writable now");
    ok_result(pte_set(window, make_pte(mfn, PTE_RW)), -EBUSY, "nor elsewhere");
    ok_result(pte_set(window, make_pte(mfn, PTE_RO)), 0, "but mapped read-only");
    ok_result(pin(mfn, 1), -EINVAL, "nor a page table");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, mfn, 0), -EINVAL, "nor be cleared");
    ok_result(HYPERVISOR_set_gdt(&mfn, 512), 0, "the same again is allowed");
    ok_result(pte_protect(page, PTE_RW), -EBUSY, "and counts once or twice: not writable");
    ok_result(HYPERVISOR_set_gdt(NULL, 0), 0, "no GDT");
    ok_result(pte_protect(page, PTE_RW), 0, "writable");
    ok_result(HYPERVISOR_set_gdt(&mfn, 0), 0, "no GDT twice");
    return 0;
}
