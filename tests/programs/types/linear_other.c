// cowbird: description = linear entries for another table of the same level: one step deep only
/*
 * A table may be linear to others, or others to it, not both: otherwise taking the last one down
 * would recurse without a bound.
 *
 * Source: xen/arch/x86/mm.c (get_l*_linear_pagetable; XSA-240).
 */
#include "cowbird.h"

static mfn_t a, b, c;

static long link(mfn_t from, unsigned long slot, mfn_t to, pte_t flags)
{
    return pte_write(from << PAGE_SHIFT | slot << 3, to ? make_pte(to, flags) : 0);
}

int main(void)
{
    const pte_t ro = PTE_TABLE & ~PTE_W;
    char *pages[3];

    ktap_plan(13);
    for (int i = 0; i < 3; i++) {
        pages[i] = page_alloc();
        make_table(pages[i], 3);
    }
    a = va_mfn(pages[0]), b = va_mfn(pages[1]), c = va_mfn(pages[2]);
    ok_result(link(a, 1, b, PTE_TABLE), -EINVAL, "writable: refused");
    ok_result(link(a, 1, b, ro), 0, "A to B, read-only");
    ok_result(link(a, 2, b, ro), 0, "twice");
    ok_result(link(b, 1, c, ro), -EINVAL, "B to C: B is the target of one");
    ok_result(link(c, 1, a, ro), -EINVAL, "C to A: A is the source of one");
    ok_result(link(c, 1, b, ro), 0, "C to B");
    ok_result(unpin(b), 0, "B is unpinned");
    ok_result(pte_protect(pages[1], PTE_RW), -EBUSY, "but still a table");
    ok_result(link(a, 1, 0, 0), 0, "one link goes");
    ok_result(link(a, 2, 0, 0), 0, "and the other");
    ok_result(unpin(c), 0, "C goes, with its link");
    ok_result(pte_protect(pages[1], PTE_RW), 0, "now B is a page");
    ok_result(link(a, 1, c, ro), -EINVAL, "C is no table any more: refused");
    return 0;
}
