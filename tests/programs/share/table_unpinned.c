// cowbird: description = a table with shared entries is unpinned: its counts go; pinned again it is refused
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * Unpinning the last reference of a table gives all its entries' references back. Its old entries
 * then name a frame that the domain may not map any more, so that the table is no legal one.
 */

#include "share_test.h"

static uint64_t entry_of(void *table, unsigned int index)
{
    return va_mfn(table) << PAGE_SHIFT | index << 3;
}

int main(void)
{
    pte_t *table = page_alloc();
    char *a = filled_page(1), *b = filled_page(2);
    struct share_req reqs[2];
    unsigned int done;
    mfn_t frame = va_mfn(a), other = va_mfn(b);
    long pages;

    ktap_plan(15);
    table[3] = make_pte(frame, PTE_RW);
    table[4] = make_pte(other, PTE_RW);
    pte_set(a, 0);
    pte_set(b, 0);
    ok_result(make_table(table, 1), 0, "a pinned L1 that no address space uses");
    pages = reservation();
    reqs[0] = (struct share_req){.ptr = entry_of(table, 3)};
    reqs[1] = (struct share_req){.ptr = entry_of(table, 4)};
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 2, &done, PTE_AVL0), 0, "two entries shared");
    ok_value(reservation(), pages - 2, "two pages less");
    ok_value(table[3] & (PTE_W | PTE_AVL), PTE_AVL0, "the table says so");
    ok(may_map(frame) && may_map(other), "the domain maps both");
    pte_set(b, make_pte(other, PTE_RO));
    ok_result(unpin(va_mfn(table)), 0, "unpinned");
    ok(!may_map(frame), "the first frame is gone");
    ok(may_map(other), "the second has another mapping");
    ok_result(pin(va_mfn(table), 1), -EBUSY, "pinned again: one of its entries is not legal");
    ok(may_map(other), "which changed nothing");
    pte_protect(table, PTE_RW);
    table[3] = 0;
    ok_result(make_table(table, 1), 0, "without the lost one it is");
    pte_set(b, 0);
    ok(may_map(other), "and its entry counts again");
    ok_result(pte_write(entry_of(table, 4), 0), 0, "cleared");
    ok(!may_map(other), "the second frame is gone too");
    ok_result(unmake_table(table), 0, "the table is a page again");
    return 0;
}
