// cowbird: description = what map_grant_ref refuses, and with which status
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h (GNTST_*); xen/common/grant_table.c (map_grant_ref, _set_status_v1).
 */
#include "grants.h"

int main(void)
{
    void *page = page_alloc(), *window = window_alloc(), *table = page_alloc();
    const unsigned int host = GNTMAP_host_map;
    struct gnttab_map_grant_ref op;

    grants_init();
    pte_map(window, 0);
    make_table(table, 1);
    ktap_plan(18);
    grant(FIRST, page, GTF_invalid);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "nothing granted");
    grant(FIRST, page, GTF_accept_transfer);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "a transfer's entry");
    grant(FIRST, page, GTF_transitive);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "a transitive one");
    grant(FIRST, page, GTF_permit_access | GTF_sub_page);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "part of a page");
    grant(FIRST, page, GTF_permit_access | GTF_readonly);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "read-only, to be written");
    ok_value(grants[FIRST].flags, GTF_permit_access | GTF_readonly, "the entry is as it was");
    grant(FIRST, page, GTF_permit_access);
    grants[FIRST].domid = (domid_t)(self + 1);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "granted to somebody else");
    grants[FIRST].domid = self;
    grants[FIRST].frame = 0xffffffff;
    ok_value(grant_map(FIRST, VA(window), host), GNTST_bad_page, "no such frame");
    ok_value(grants[FIRST].flags, GTF_permit_access, "the entry is as it was");
    grant(FIRST, table, GTF_permit_access);
    ok_value(grant_map(FIRST, VA(window), host), GNTST_general_error, "a page table, to be written");
    ok_value(grant_map(FIRST, VA(window), host | GNTMAP_readonly), GNTST_okay, "to be read");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "and unmapped");
    grant(FIRST, page, GTF_permit_access);
    ok_value(grant_map(100000000, VA(window), host), GNTST_bad_gntref, "no such entry");
    ok_value(grant_map(FIRST, VA(window), 0), GNTST_bad_gntref, "mapped in no way");
    ok_value(grant_map(FIRST, 0x700000000000, host), GNTST_general_error, "no table for it");
    ok_value(grant_map(FIRST, 0xffff800000000000, host), GNTST_general_error, "Xen's range");
    op = (struct gnttab_map_grant_ref){VA(window), host, FIRST, DOMID_SELF, 77, 0, 0};
    HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, &op, 1);
    ok_value(op.status, GNTST_bad_domain, "DOMID_SELF is nobody here");
    op.dom = 999;
    HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, &op, 1);
    ok_value(op.status, GNTST_bad_domain, "no such domain");
    return 0;
}
