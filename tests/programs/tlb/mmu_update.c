// cowbird: description = mmu_update of a leaf, then a flush: less rights, another frame, nothing
// cowbird: environments = pv64, pv32, xen
/*
 * Unlike update_va_mapping, mmu_update takes no flags: the guest flushes by mmuext_op.
 *
 * Source: xen.h (mmu_update).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *other = page_alloc();
    const mfn_t mfn = va_mfn(page);
    const uint64_t where = pte_maddr(page);

    ktap_plan(12);
    memset(other, 'b', PAGE_SIZE);
    memset(page, 'a', PAGE_SIZE);
    ok_result(pte_write(where, make_pte(mfn, PTE_RO)), 0, "read-only");
    flush_page(page);
    ok_fault(probe_write(page), PF(PF_P | PF_W), "a write faults");
    ok_value(*page, 'a', "a read does not");

    ok_result(pte_write(where, make_pte(va_mfn(other), PTE_RO)), 0, "another frame");
    flush_page(page);
    ok_value(*page, 'b', "is read");
    ok_result(pte_write(where, 0), 0, "nothing");
    flush_page(page);
    ok_fault(probe_read(page), PF(0), "a read faults");

    ok_result(pte_write(where, make_pte(mfn, PTE_RW | PTE_NX)), 0, "the first frame, NX");
    ok_fault(probe_exec(page), PF(PF_P | PF_I), "a fetch faults");
    ok_fault(probe_write(page), NO_FAULT, "a write does not: more rights need no flush");
    ok_value(*page, 0x5a, "it was written");
    ok_value(page[1], 'a', "and the rest is as it was");
    return 0;
}
