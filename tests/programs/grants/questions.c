// cowbird: description = sizes and versions of the grant table, swapping entries, odd calls
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/common/grant_table.c (do_grant_table_op).
 */
#include "grants.h"

int main(void)
{
    struct gnttab_query_size size = {.dom = DOMID_SELF};
    struct gnttab_set_version version = {3};
    struct gnttab_get_version get = {.dom = 999};
    struct gnttab_setup_table setup = {DOMID_SELF, 1, 1, (xen_pfn_t *)BAD_ADDRESS};
    void *page = page_alloc(), *window = window_alloc();

    grants_init();
    pte_map(window, 0);
    ktap_plan(22);
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_query_size, &size, 1), 0, "query_size");
    ok_value(size.status, GNTST_okay, "status");
    ok(size.nr_frames >= 1 && size.nr_frames <= size.max_nr_frames, "sizes");
    size.dom = 999;
    HYPERVISOR_grant_table_op(GNTTABOP_query_size, &size, 1);
    ok_value(size.status, GNTST_bad_domain, "of nobody");
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_query_size, &size, 2), -EINVAL, "two at once");
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_setup_table, &setup, 1), -EFAULT, "Xen's range");
    setup.frame_list = (xen_pfn_t *)FURTHER_AWAY;
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "not mapped");
    ok_value(setup.status, GNTST_bad_virt_addr, "says so");
    setup.nr_frames = 1000000;
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "too many frames");
    ok_value(setup.status, GNTST_general_error, "says so");
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_set_version, &version, 1), -EINVAL, "version 3");
    ok_value(version.version, 1, "it is 1");
    ok_result(HYPERVISOR_grant_table_op(GNTTABOP_get_version, &get, 1), -ESRCH, "of nobody");
    ok_result(HYPERVISOR_grant_table_op(13, &get, 1), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_grant_table_op(0x1000, &get, 1), -EINVAL, "a continuation's bits");
    ok_result(HYPERVISOR_grant_table_op(0, &get, 0x80000000), -EINVAL, "too many");
    grant(FIRST, page, GTF_permit_access);
    grant(FIRST + 1, page, GTF_invalid);
    ok_value(swap(FIRST, FIRST + 1), GNTST_okay, "swap");
    ok_value(grants[FIRST + 1].flags, GTF_permit_access, "swapped");
    ok_value(swap(FIRST, 100000000), GNTST_bad_gntref, "no such entry");
    ok_value(grant_map(FIRST + 1, VA(window), GNTMAP_host_map), GNTST_okay, "in use");
    ok_value(swap(FIRST, FIRST + 1), GNTST_eagain, "not to be swapped");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "unmapped");
    return 0;
}
