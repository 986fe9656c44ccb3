// cowbird: description = mapping by the machine address of an L1 entry (GNTMAP_contains_pte)
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/arch/x86/pv/grant_table.c.
 */
#include "grants.h"

int main(void)
{
    void *page = page_alloc(), *window = window_alloc(), *data = page_alloc();
    const unsigned int how = GNTMAP_host_map | GNTMAP_contains_pte;
    uint64_t entry;

    grants_init();
    pte_map(window, 0);
    entry = pte_maddr(window);
    grant(FIRST, page, GTF_permit_access);
    ktap_plan(9);
    ok_value(grant_map(FIRST, entry + 4, how), GNTST_general_error, "misaligned");
    ok_value(grant_map(FIRST, va_mfn(data) << PAGE_SHIFT, how), GNTST_general_error,
             "in a page that is no table");
    ok_value(grant_map(FIRST, start_info->pt_base, how), GNTST_general_error, "no frame");
    ok_value(grants[FIRST].flags, GTF_permit_access, "the entry is as it was");
    ok_value(grant_map(FIRST, entry, how), GNTST_okay, "an entry");
    ok_value(va_mfn(window), va_mfn(page), "maps it now");
    ok_value(grant_unmap(last.handle, entry + 8, 0), GNTST_general_error, "another entry");
    ok_value(grant_unmap(last.handle, entry, 0), GNTST_okay, "unmapped");
    ok_value(pte_get(window), 0, "nothing is there now");
    return 0;
}
