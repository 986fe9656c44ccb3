// cowbird: description = a request that fails does not stop the others; one that cannot be read does
// cowbird: environments = pv64, pv32, xen
/*
 * Also: what an entry says after it is in use, and many mappings of one entry.
 *
 * Source: xen/common/grant_table.c (gnttab_map_grant_ref, map_grant_ref).
 */
#include "grants.h"

int main(void)
{
    char *page = page_alloc(), *edge = page_alloc(), *other = page_alloc();
    void *window[3] = {window_alloc(), window_alloc(), window_alloc()};
    struct gnttab_map_grant_ref op[3], *at;
    int failed = 0;

    grants_init();
    for (int i = 0; i < 3; i++) {
        pte_map(window[i], 0);
        op[i] = (struct gnttab_map_grant_ref){VA(window[i]), GNTMAP_host_map, FIRST + i % 2,
                                              self, 77, 0, 0};
    }
    grant(FIRST, page, GTF_permit_access);
    grant(FIRST + 1, page, GTF_invalid);
    ktap_plan(17);
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, op, 3), 0, "three requests");
    ok_value(op[0].status, GNTST_okay, "the first");
    ok_value(op[1].status, GNTST_general_error, "the second");
    ok_value(op[2].status, GNTST_okay, "the third");
    ok_value(grant_unmap(op[2].handle, VA(window[2]), 0), GNTST_okay, "unmapped");

    at = (struct gnttab_map_grant_ref *)(edge + PAGE_SIZE - sizeof(*at));
    *at = op[2];
    pte_protect(other, 0);
    if (other == edge + PAGE_SIZE)
        ok_result(HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, at, 2), -EFAULT,
                  "the second cannot be read");
    else
        skip("the pages are not neighbours", "the second cannot be read");
    pte_protect(other, PTE_RW);
    if (at->status != GNTST_okay)
        HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, at, 1);
    ok_value(at->status, GNTST_okay, "the first is mapped");
    ok_value(va_mfn(window[2]), va_mfn(page), "indeed");
    ok_value(grant_unmap(at->handle, VA(window[2]), 0), GNTST_okay, "unmapped");

    grants[FIRST].frame = (uint32_t)va_mfn(other);
    ok_value(grant_map(FIRST, VA(window[1]), GNTMAP_host_map), GNTST_okay, "while it is in use");
    ok_value(va_mfn(window[1]), va_mfn(page), "an entry means what it did at first");
    grants[FIRST].flags = GTF_invalid;
    ok_value(grant_map(FIRST, VA(window[2]), GNTMAP_host_map | GNTMAP_readonly), GNTST_okay,
             "whatever it says now");
    ok_value(grant_unmap(last.handle, VA(window[2]), 0), GNTST_okay, "unmapped");
    grant(FIRST, page, GTF_permit_access);
    for (int i = 0; i < 126; i++)
        failed += grant_map(FIRST, VA(window[2]), GNTMAP_host_map) != GNTST_okay;
    ok_value(failed, 0, "128 mappings in all");
    ok_value(grant_map(FIRST, VA(window[2]), GNTMAP_host_map), GNTST_general_error, "no more");
    ok_value(grant_unmap(op[0].handle, VA(window[0]), 0), GNTST_okay, "one less");
    ok_value(grant_map(FIRST, VA(window[2]), GNTMAP_host_map), GNTST_okay, "one more");
    return 0;
}
