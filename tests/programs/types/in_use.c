// cowbird: description = a table in use stays a table: unpinned while loaded, linked or both
// cowbird: environments = pv64, pv32, xen
/*
 * Each of CR3, a pin and an entry above holds a reference; the table ends with the last one.
 *
 * Source: xen/arch/x86/mm.c (put_page_type; new_guest_cr3).
 */
#include "cowbird.h"

static char *const at = (char *)AWAY;

int main(void)
{
    mfn_t first = l4_current(), second = l4_new(), l1, l2;
    char *page = page_alloc();

    ktap_plan(14);
    ok_result(l4_load(second), 0, "a second L4 is loaded");
    ok_result(unpin(second), 0, "and unpinned");
    ok_value(*page, 0, "the kernel goes on");
    ok_result(pin(second, 1), -EINVAL, "it is still an L4");
    ok_result(pin(second, TOP_LEVEL), 0, "and can be pinned again");
    ok_result(l4_load(first), 0, "the first");
    ok_result(unpin(second), 0, "the second goes");

    pte_map(at, make_pte(va_mfn(page), PTE_RW));
    l2 = pte_mfn(pte_get_at(first, at, 3));
    l1 = pte_mfn(pte_get_at(first, at, 2));
    ok_result(unpin(l1), -EINVAL, "a table that was never pinned cannot be unpinned");
    ok_result(pin(l1, 1), 0, "pinned as what it is");
    ok_result(pte_write((uint64_t)l2 << PAGE_SHIFT | (uint64_t)table_index(at, 2) << 3, 0), 0,
              "taken out of its L2");
    ok_result(pte_set(pfn_va(m2p[l1]), make_pte(l1, PTE_RW)), -EBUSY, "the pin holds it");
    ok_value(pte_mfn(table_read(l1, table_index(at, 1))), va_mfn(page), "its entry too");
    ok_result(unpin(l1), 0, "unpinned");
    ok_result(pte_set(pfn_va(m2p[l1]), make_pte(l1, PTE_RW)), 0, "it is a page");
    return 0;
}
