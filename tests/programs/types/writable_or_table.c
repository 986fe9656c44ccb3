// cowbird: description = a frame is writable or a page table, never both: every level, both ways
// cowbird: environments = pv64, pv32, xen
/*
 * A frame has one type while anything refers to it as such. A writable mapping is such a
 * reference, and so are a pin and an entry of a higher table.
 *
 * Source: xen/arch/x86/include/asm/mm.h (PGT_*).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *window = window_alloc();
    const mfn_t mfn = va_mfn(page);

    ktap_plan(EMPTY_TABLES * 6);
    for (int level = 1; level <= EMPTY_TABLES; level++) {
        ok_result(pin(mfn, level), -EINVAL, "a writable page cannot be pinned as L%d", level);
        ok_result(make_table(page, level), 0, "a read-only one can");
        ok_result(pte_protect(page, PTE_RW), -EBUSY, "it cannot be made writable");
        ok_result(pte_set(window, make_pte(mfn, PTE_RW)), -EBUSY, "nor mapped so elsewhere");
        ok_result(pte_set(window, make_pte(mfn, PTE_RO)), 0, "read-only it can");
        pte_set(window, 0);
        ok_result(unmake_table(page), 0, "unpinned, it is a page again");
    }
    return 0;
}
