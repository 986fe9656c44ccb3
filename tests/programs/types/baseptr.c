// cowbird: description = what can be loaded as kernel's and user's address space: L4 tables only
/*
 * A frame that is no L4 table yet is validated as one; 0 takes the user's away.
 *
 * Source: xen/arch/x86/mm.c (MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR).
 */
#include "cowbird.h"

static long load(unsigned int command, mfn_t mfn)
{
    return mmuext(command, mfn, 0);
}

int main(void)
{
    char *page = page_alloc(), *l3 = page_alloc();
    const mfn_t mfn = va_mfn(page);

    ktap_plan(13);
    make_table(l3, 3);
    ok_result(load(MMUEXT_NEW_BASEPTR, mfn), -EINVAL, "a writable page");
    ok_result(load(MMUEXT_NEW_BASEPTR, va_mfn(l3)), -EINVAL, "an L3 table");
    ok_result(load(MMUEXT_NEW_BASEPTR, l4_current()), 0, "the current one");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, mfn), -EINVAL, "user: a writable page");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, va_mfn(l3)), -EINVAL, "user: an L3 table");
    ok_result(pte_protect(page, PTE_RO), 0, "a read-only, empty page");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, mfn), 0, "user: becomes an L4");
    ok_result(pte_protect(page, PTE_RW), -EBUSY, "which it is");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, mfn), 0, "user: the same again");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, l4_current()), 0, "user: the kernel's own");
    ok_result(pte_protect(page, PTE_RW), 0, "the first one is a page again");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, 0), 0, "user: none");
    ok_result(load(MMUEXT_NEW_USER_BASEPTR, 0), 0, "user: none again");
    return 0;
}
