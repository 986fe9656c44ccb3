// cowbird: description = bit 62 of an L1 entry marks the mapping of a grant: only Xen may set it
// cowbird: environments = pv64, pv32, xen
// cowbird: difference = a release build of Xen, as Debian's is, does not mark grants at all
/*
 * Otherwise a guest could pass an ordinary mapping off as that of a grant, or change one.
 *
 * Source: xen/arch/x86/include/asm/x86_64/page.h (_PAGE_GNTTAB: debug builds only).
 */
#include "cowbird.h"

#define GRANT (UINT64_C(1) << 62)

int main(void)
{
    char *page = page_alloc();
    const pte_t entry = make_pte(va_mfn(page), PTE_RW);

    ktap_plan(4);
    ok_result(pte_set(page, entry | GRANT), -EINVAL, "update_va_mapping");
    ok_result(pte_write(pte_maddr(page), entry | GRANT), -EINVAL, "mmu_update");
    ok_result(pte_set(page, GRANT), 0, "an entry that is not present may have it");
    ok_result(pte_set(page, entry), 0, "and none without it");
    return 0;
}
