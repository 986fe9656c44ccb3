// cowbird: description = MMUEXT_CLEAR_PAGE and COPY_PAGE: into ordinary pages of one's own only
// cowbird: environments = pv64, pv32, xen
/*
 * The target must be free to be written: no page table. The source may be any page of one's own.
 *
 * Source: xen/arch/x86/mm.c (MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE).
 */
#include "cowbird.h"

static mfn_t a, b, table;

int main(void)
{
    char *one = page_alloc(), *two = page_alloc(), *l1 = page_alloc(), *gone = page_alloc();
    mfn_t free = va_mfn(gone);

    page_release(gone);
    make_table(l1, 1);
    a = va_mfn(one), b = va_mfn(two), table = va_mfn(l1);
    page_fill(one, 4);
    ktap_plan(12);
    ok_result(mmuext(MMUEXT_COPY_PAGE, b, a), 0, "copied");
    ok(page_check(two, 4), "the same contents");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, b, 0), 0, "cleared");
    ok_value(two[0] | two[4095], 0, "zero");
    ok(page_check(one, 4), "the other is as it was");
    pte_protect(two, PTE_RO);
    ok_result(mmuext(MMUEXT_COPY_PAGE, b, a), 0, "how it is mapped does not matter");
    ok_result(mmuext(MMUEXT_COPY_PAGE, a, table), 0, "from a page table");
    ok_result(mmuext(MMUEXT_COPY_PAGE, table, a), -EINVAL, "on to a page table");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, table, 0), -EINVAL, "a page table is not cleared");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, free, 0), -EINVAL, "nor a free frame");
    ok_result(mmuext(MMUEXT_COPY_PAGE, a, free), -EINVAL, "nor is one copied");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, INVALID_MFN, 0), -EINVAL, "no such frame");
    return 0;
}
