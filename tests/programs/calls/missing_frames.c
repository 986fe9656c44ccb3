// cowbird: description = entries for frames that the machine does not have
// cowbird: environments = pv64, pv32, xen
/*
 * To an ordinary domain such an address is that of a device it was not given: -EPERM; the frame
 * number with all bits set is an error of the guest's: -EINVAL. The first domain of the real Xen
 * may map devices, so there only what it cannot have either is looked at.
 *
 * Source: xen/arch/x86/mm.c (get_page_from_l1e).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *table = page_alloc();
    const mfn_t beyond = (mfn_t)0x123456789; /* for 32 bits less, and still no frame */

    ktap_plan(7);
    if (is_privileged())
        skip("this domain may map devices", "an L1 entry");
    else
        ok_result(pte_set(page, make_pte(beyond, PTE_RO)), -EPERM, "an L1 entry");
    ok_result(pte_set(page, PTE_FRAME | PTE_RO), -EINVAL, "an L1 entry, all bits of the frame set");
    ok_value(pte_get(page) & PTE_FRAME, make_pte(p2m[va_pfn(page)], 0), "nothing has changed");
    make_table(table, 2);
    ok_result(pte_write(va_mfn(table) << PAGE_SHIFT, make_pte(beyond, PTE_TABLE)), -EINVAL,
              "an L2 entry");
    ok_result(pin(beyond, 1), -EINVAL, "to be pinned");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, beyond, 0), -EINVAL, "to be cleared");
    ok_result(pte_write(beyond << PAGE_SHIFT, 0), -EINVAL, "to be written");
    return 0;
}
