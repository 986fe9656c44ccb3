// cowbird: description = the errno of a table that is refused comes up from the entry that is bad
/*
 * A bad L1 entry has its own errno (-EBUSY for a frame in other use, -EINVAL for bad bits); the
 * hypercall that would have validated the table answers with it, through all levels.
 *
 * Source: xen/arch/x86/mm.c (validate_page).
 */
#include "cowbird.h"

int main(void)
{
    uint64_t *l1 = page_alloc(), *l2 = page_alloc(), *l3 = page_alloc();

    ktap_plan(9);
    l1[9] = make_pte(l4_current(), PTE_RW);
    l2[0] = make_pte(va_mfn(l1), PTE_TABLE);
    l3[0] = make_pte(va_mfn(l2), PTE_TABLE);
    pte_protect(l1, PTE_RO);
    pte_protect(l2, PTE_RO);
    pte_protect(l3, PTE_RO);
    ok_result(pin(va_mfn(l1), 1), -EBUSY, "a page table, writable: the L1");
    ok_result(pin(va_mfn(l2), 2), -EBUSY, "the L2 above");
    ok_result(pin(va_mfn(l3), 3), -EBUSY, "the L3 above");
    pte_protect(l1, PTE_RW);
    l1[9] = 0;
    pte_protect(l1, PTE_RO);
    ok_result(pin(va_mfn(l3), 3), 0, "mended, all are tables");
    ok_result(pte_protect(l1, PTE_RW), -EBUSY, "the L1 too");
    ok_result(unpin(va_mfn(l3)), 0, "unpinned");
    ok_result(pte_protect(l1, PTE_RW), 0, "none is: L1");
    ok_result(pte_protect(l2, PTE_RW), 0, "L2");
    ok_result(pte_protect(l3, PTE_RW), 0, "L3");
    return 0;
}
