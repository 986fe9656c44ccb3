// cowbird: description = no write into a page table through what the TLB remembers of a writable page
// cowbird: environments = pv64, pv32, xen
/*
 * A guest forgets to flush on purpose: a page is written, made read-only without a flush, and made
 * a page table. From then on a write through the old translation would forge page tables, so the
 * hypervisor must flush by itself before it validates.
 *
 * For its first domain the real Xen emulates writes to L1 tables, checked as an mmu_update is
 * (pv/ro-page-fault.c): there is no fault to see then.
 *
 * Source: xen/arch/x86/mm.c (_get_page_type: a flush when a frame changes its type).
 */
#include "cowbird.h"

static long read_only_unflushed(char *page)
{
    pte_protect(page, PTE_RW);
    *(volatile uint64_t *)(page + 8) = 0;
    return HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(va_mfn(page), PTE_RO),
                                        UVMF_NONE);
}

int main(void)
{
    char *page = page_alloc();
    const mfn_t mfn = va_mfn(page);

    ktap_plan(EMPTY_TABLES * 3 + 1);
    for (int level = 1; level <= EMPTY_TABLES; level++) {
        ok_result(read_only_unflushed(page), 0, "read-only, no flush");
        ok_result(pin(mfn, level), 0, "pinned as L%d", level);
        if (level == 1 && is_privileged())
            skip("Xen emulates it for its first domain", "a write faults");
        else
            ok_fault(probe_store(page + 8, 0x55), PF(PF_P | PF_W), "a write faults");
        unpin(mfn);
    }
    ok_value(((uint64_t *)page)[1], 0, "nothing was written");
    return 0;
}
