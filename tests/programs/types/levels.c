// cowbird: description = an entry of level n must name a table of level n - 1, or what can become one
/*
 * A reference from above validates a frame as the next lower level, unless it has a type already.
 *
 * Source: xen/arch/x86/mm.c (get_page_from_l2e to get_page_from_l4e).
 */
#include "cowbird.h"

static mfn_t table[5], spare;

static long enter(int level, mfn_t lower)
{
    return pte_write(table[level] << PAGE_SHIFT | 8 * 7, make_pte(lower, PTE_TABLE));
}

int main(void)
{
    char *page = page_alloc();

    ktap_plan(14);
    for (int level = 1; level <= 4; level++) {
        char *memory = page_alloc();

        table[level] = va_mfn(memory);
        make_table(memory, level);
    }
    spare = va_mfn(page);
    for (int level = 2; level <= 4; level++) {
        ok_result(enter(level, spare), -EINVAL, "L%d: a writable page", level);
        ok_result(enter(level, table[level % 4 + 1]), -EINVAL, "L%d: a wrong level", level);
        ok_result(enter(level, table[level - 1]), 0, "L%d: the right one", level);
    }
    ok_result(enter(3, table[1]), -EINVAL, "L3: an L1 table");
    ok_result(enter(4, table[2]), -EINVAL, "L4: an L2 table");
    pte_protect(page, PTE_RO);
    ok_result(enter(2, spare), 0, "L2: a read-only page becomes an L1 table");
    ok_result(pte_protect(page, PTE_RW), -EBUSY, "which it is");
    enter(2, table[1]);
    ok_result(pte_protect(page, PTE_RW), 0, "until its entry is overwritten");
    return 0;
}
