// cowbird: description = AVL bits, and all of an entry that is not present, are the guest's own
// cowbird: environments = pv64, pv32, xen
/*
 * Bits 9 to 11 mean nothing to the MMU; Xen passes them through. An entry without P holds whatever
 * the guest wants (where a page went on disk, say).
 *
 * Source: Intel SDM 3A, table 4-20; xen.h.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *table = page_alloc();
    mfn_t mfn = va_mfn(page), l1;
    unsigned int lost = 0;

    ktap_plan(11);
    for (uint64_t avl = 0; avl < 8; avl++) {
        pte_set(page, make_pte(mfn, PTE_RW | avl << 9));
        lost += probe_write(page) != NO_FAULT;
        lost += (pte_get(page) & PTE_AVL) != avl << 9;
    }
    ok_value(lost, 0, "all 8 values by update_va_mapping");
    for (uint64_t avl = 0; avl < 8; avl++) {
        pte_write(pte_maddr(page), make_pte(mfn, PTE_RW | avl << 9));
        lost += (pte_get(page) & PTE_AVL) != avl << 9;
    }
    ok_value(lost, 0, "by mmu_update");
    ok_result(pte_write(pte_maddr(page) | MMU_PT_UPDATE_PRESERVE_AD, make_pte(mfn, PTE_P | PTE_AVL)),
              0, "by MMU_PT_UPDATE_PRESERVE_AD");
    ok_value(pte_get(page) & PTE_AVL, PTE_AVL, "they are there");

    *(uint64_t *)table = make_pte(mfn, PTE_RO | PTE_AVL1);
    l1 = va_mfn(table);
    ok_result(make_table(table, 1), 0, "a table with an entry that has AVL1");
    ok_value(table_read(l1, 0) & PTE_AVL, PTE_AVL1, "keeps it when validated");
    ok_result(unmake_table(table), 0, "and when no longer a table");
    ok_value(*(uint64_t *)table & PTE_AVL, PTE_AVL1, "it is there");

    ok_result(pte_set(page, 0xfedcba9876543210), 0, "an entry without P: any other bits");
    ok_value(pte_get(page), 0xfedcba9876543210, "are kept");
    ok_fault(probe_read(page), PF(0), "and it is absent");
    return 0;
}
