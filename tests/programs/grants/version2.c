// cowbird: description = version 2 of the grant table: switching, sizes, status frames
/*
 * Source: xen/grant_table.h; xen/common/grant_table.c (gnttab_set_version,
 * gnttab_get_status_frames, gnttab_unpopulate_status_frames).
 */
#include "grants2.h"

static uint64_t list[64];
static xen_pfn_t table[64];

static long status_frames(uint32_t count, domid_t whose, void *where, int16_t *status)
{
    struct gnttab_get_status_frames op = {count, whose, 77, (unsigned long)where};
    long answer = HYPERVISOR_grant_table_op(GNTTABOP_get_status_frames, &op, 1);

    *status = op.status;
    return answer;
}

static int setup(uint32_t count)
{
    struct gnttab_setup_table op = {DOMID_SELF, count, 77, table};

    if (HYPERVISOR_grant_table_op(GNTTABOP_setup_table, &op, 1))
        return 99;
    return op.status;
}

static uint32_t version_of_self(void)
{
    struct gnttab_get_version op = {.dom = DOMID_SELF};

    return HYPERVISOR_grant_table_op(GNTTABOP_get_version, &op, 1) ? 99 : op.version;
}

int main(void)
{
    struct gnttab_query_size size = {.dom = DOMID_SELF};
    void *page = page_alloc(), *window = window_alloc(), *map = window_alloc();
    uint64_t frame;
    int16_t status;
    uint32_t before;

    grants_init();
    pte_map(window, 0);
    pte_map(map, 0);
    ktap_plan(63);

    ok_value(version_of_self(), 1, "it begins with version 1");
    ok_result(status_frames(1, DOMID_SELF, list, &status), 0, "status frames in version 1");
    ok_value(status, GNTST_general_error, "there are none");
    ok_result(status_frames(0, DOMID_SELF, list, &status), 0, "none of them");
    ok_value(status, GNTST_okay, "can be had");
    ok_result(set_version(1), 1, "version 1 again");
    ok_result(set_version(0), -EINVAL, "version 0");
    ok_result(set_version(3), -EINVAL, "version 3");

    /* In use: no switch. One of the first eight may be. */
    grant(FIRST, page, GTF_permit_access);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "entry 8 in use");
    ok_result(set_version(2), -EBUSY, "no switch then");
    ok_value(version_of_self(), 1, "it is still 1");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "given up");
    grant(7, page, GTF_permit_access);
    ok_value(grant_map(7, VA(window), GNTMAP_host_map), GNTST_okay, "entry 7 in use");
    grant(6, page, GTF_permit_access | GTF_readonly);
    HYPERVISOR_grant_table_op(GNTTABOP_query_size, &size, 1);
    before = size.nr_frames;
    ok_result(set_version(2), 2, "that does not matter");
    ok_value(version_of_self(), 2, "it is 2");
    HYPERVISOR_grant_table_op(GNTTABOP_query_size, &size, 1);
    ok_value(size.nr_frames, before, "as many frames as before");
    ok_result(set_version(2), 2, "version 2 again");
    ok_value(va_mfn(grants), table[0] ? table[0] : va_mfn(grants), "the table is where it was");

    /* What was kept of the first eight, and the status of the one in use. */
    ok_value(entries2[7].hdr.flags, GTF_permit_access, "entry 7: its flags");
    ok_value(entries2[7].hdr.domid, self, "its domain");
    ok_value(entries2[7].full_page.frame, va_mfn(page), "its frame");
    ok_value(entries2[7].full_page.pad0, 0, "its padding");
    ok_value(entries2[6].hdr.flags, GTF_permit_access | GTF_readonly, "entry 6: its flags");
    ok_value(entries2[FIRST].hdr.flags, 0, "entry 8 is gone");
    ok_value(entries2[FIRST].full_page.frame, 0, "with its frame");

    ok_result(status_frames(1, DOMID_SELF, list, &status), 0, "the status frame");
    ok_value(status, GNTST_okay, "is there");
    frame = list[0];
    ok(frame != va_mfn(grants), "it is a frame of its own");
    ok_result(status_frames(2, DOMID_SELF, list, &status), 0, "two of them");
    ok_value(status, GNTST_general_error, "are not");
    ok_result(status_frames(1, 999, list, &status), 0, "of nobody");
    ok_value(status, GNTST_bad_domain, "says so");
    ok_result(status_frames(1, DOMID_SELF, (void *)0x700000000000, &status), 0, "nowhere to");
    ok_value(status, GNTST_bad_virt_addr, "says so");

    statuses = map;
    ok_result(pte_map(map, make_pte(frame, PTE_RW)), 0, "mapped");
    ok_value(statuses[7], BITS, "entry 7 is in use");
    ok_value(statuses[6], 0, "entry 6 is not");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "entry 7 is given up");
    ok_value(statuses[7], 0, "not in use any more");

    /* More frames of the table need more status words: one frame for eight. */
    ok_value(setup(9), GNTST_okay, "nine frames");
    ok_result(status_frames(2, DOMID_SELF, list, &status), 0, "two status frames");
    ok_value(status, GNTST_okay, "are there now");
    ok_value(list[0], frame, "the first is the same");
    ok_result(status_frames(3, DOMID_SELF, list, &status), 0, "three");
    ok_value(status, GNTST_general_error, "are not");

    /* Back to version 1. */
    grant2(5, page, GTF_permit_access);
    grant2(4, page, GTF_accept_transfer);
    ok_result(set_version(1), -EBUSY, "back, while a status frame is mapped");
    ok_value(version_of_self(), 2, "it is still 2");
    ok_value(entries2[5].hdr.flags, GTF_permit_access, "and nothing is lost");
    ok_result(pte_map(map, 0), 0, "unmapped");
    pass_on(3, self, 1, 8);
    ok_result(set_version(1), -ERANGE, "a transitive grant has no place in version 1");
    entry2(3, GTF_permit_access, self, 0, 1UL << 32);
    ok_result(set_version(1), -ERANGE, "nor has a large frame number");
    entry2(3, GTF_invalid, self, 0, 1UL << 32);
    ok_result(set_version(1), 1, "back");
    ok_value(version_of_self(), 1, "it is 1");
    ok_value(grants[5].flags, GTF_permit_access, "entry 5 was kept");
    ok_value(grants[5].frame, va_mfn(page), "with its frame");
    ok_value(grants[4].flags, 0, "entry 4 was not: it was for a transfer");
    ok_value(grants[6].flags, GTF_permit_access | GTF_readonly, "entry 6 was kept");
    ok_result(status_frames(1, DOMID_SELF, list, &status), 0, "status frames in version 1");
    ok_value(status, GNTST_general_error, "are gone");
    ok_result(pte_map(map, make_pte(frame, PTE_RW)), -EBUSY, "and cannot be mapped any more");
    grant(FIRST, page, GTF_permit_access);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "it grants as before");
    ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "and shows the use in the entry");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "given up");
    return 0;
}
