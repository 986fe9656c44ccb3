// cowbird: description = a table with an entry for what is not the guest's is no table
// cowbird: environments = pv64, pv32, xen
/*
 * Validation looks at every entry; the first bad one gives the answer, and what the others took is
 * given back. Xen's M2P pages stand for the hypervisor's, a page just released for a free one.
 * (Frames that do not exist: see calls/missing_frames.c.)
 *
 * Source: xen/arch/x86/mm.c (get_page_from_l1e: -EBUSY, -EINVAL; alloc_l1_table and its kin).
 */
#include "cowbird.h"

static char *table, *good;

/* Pins `table` with one good entry and behind it `entry`. */
static long try(int level, pte_t entry)
{
    uint64_t *words = (uint64_t *)table;
    long answer;

    pte_protect(table, PTE_RW);
    memset(table, 0, PAGE_SIZE);
    words[3] = level == 1 ? make_pte(va_mfn(good), PTE_RW) : 0;
    words[5] = entry;
    pte_protect(table, PTE_RO);
    answer = pin(va_mfn(table), level);
    if (!answer)
        unpin(va_mfn(table));
    return answer;
}

int main(void)
{
    xen_pfn_t xens = 0;
    struct xen_machphys_mfn_list list = {.max_extents = 1, .extent_start = &xens};
    char *given = page_alloc();
    mfn_t gone = va_mfn(given);

    table = page_alloc();
    good = page_alloc();
    ktap_plan(TOP_LEVEL == 4 ? 12 : 11);
    ok_result(page_release(given), 0, "a page goes back to Xen");
    ok_result(HYPERVISOR_memory_op(XENMEM_machphys_mfn_list, &list), 0, "where the M2P is");
    ok_result(try(1, make_pte(gone, PTE_RO)), -EBUSY, "L1: a free frame");
    ok_result(try(1, make_pte(xens, PTE_RW)), -EBUSY, "L1: the hypervisor's, writable");
    ok_result(try(1, make_pte(l4_current(), PTE_RW)), -EBUSY, "L1: a page table, writable");
    ok_result(try(1, make_pte(l4_current(), PTE_RO)), 0, "L1: a page table, read-only");
    ok_result(try(2, make_pte(gone, PTE_TABLE)), -EINVAL, "L2: a free frame");
    ok_result(try(2, make_pte(xens, PTE_TABLE)), -EINVAL, "L2: the hypervisor's");
    ok_result(try(3, make_pte(gone, PTE_TABLE)), -EINVAL, "L3: a free frame");
    if (TOP_LEVEL == 4)
        ok_result(try(4, make_pte(l4_current(), PTE_TABLE)), -EINVAL, "L4: an L4 table, writable");
    ok_result(try(1, make_pte(va_mfn(good), PTE_RW)), 0, "L1: the good page twice");
    ok_result(pte_protect(table, PTE_RW), 0, "nothing is left of all that");
    return 0;
}
