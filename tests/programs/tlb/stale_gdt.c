// cowbird: description = no write into a descriptor table through a stale translation
// cowbird: environments = pv64, pv32, xen
/*
 * As stale_write.c, for set_gdt: Xen has checked the descriptors, so they may not change behind it.
 *
 * Source: xen/arch/x86/pv/descriptor-tables.c.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();
    unsigned long mfn = va_mfn(page);

    ktap_plan(6);
    *(volatile uint64_t *)(page + 8) = 0;
    ok_result(HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(mfn, PTE_RO), UVMF_NONE), 0,
              "read-only, no flush");
    ok_result(HYPERVISOR_set_gdt(&mfn, 512), 0, "it is the GDT");
    ok_fault(probe_store(page + 8, 0x55), PF(PF_P | PF_W), "a write faults");
    ok_value(((uint64_t *)page)[1], 0, "nothing was written");
    ok_result(HYPERVISOR_set_gdt(NULL, 0), 0, "no GDT");
    ok_result(pte_protect(page, PTE_RW), 0, "it can be writable again");
    return 0;
}
