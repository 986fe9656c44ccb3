// cowbird: description = unmap_and_replace moves an entry, and loses it where that fails
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/arch/x86/pv/grant_table.c (replace_grant_pv_mapping).
 */
#include "grants.h"

static int replace(uint32_t handle, void *where, void *with)
{
    struct gnttab_unmap_and_replace op = {VA(where), VA(with), handle, 77};

    if (HYPERVISOR_grant_table_op(GNTTABOP_unmap_and_replace, &op, 1))
        return 99;
    return op.status;
}

int main(void)
{
    void *page = page_alloc(), *window = window_alloc(), *mine = window_alloc();
    void *spare = page_alloc();

    grants_init();
    pte_map(window, 0);
    pte_map(mine, make_pte(va_mfn(spare), PTE_RW));
    grant(FIRST, page, GTF_permit_access);
    ktap_plan(10);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    ok_value(replace(last.handle, window, mine), GNTST_okay, "replaced");
    ok_value(va_mfn(window), va_mfn(spare), "by what was mapped there");
    ok_value(pte_get(mine), 0, "where nothing is now");
    ok_value(grants[FIRST].flags, GTF_permit_access, "no longer in use");
    ok_value(grant_map(FIRST, VA(mine), GNTMAP_host_map), GNTST_okay, "mapped again");
    ok_value(replace(last.handle, spare, window), GNTST_general_error, "at a wrong address");
    ok_value(pte_get(window), 0, "what should have moved is lost");
    ok_value(replace(last.handle, mine, NULL), GNTST_okay, "replaced by nothing");
    ok_value(pte_get(mine), 0, "is unmapped");
    return 0;
}
