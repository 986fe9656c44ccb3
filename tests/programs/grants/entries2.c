// cowbird: description = entries of version 2: whole frames, parts of them, grants passed on
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/common/grant_table.c (_set_status_v2, acquire_grant_for_copy).
 * What is passed on needs a third domain; its refusals do not.
 */
#include "grants2.h"

#define SOURCE 1u
#define DEST 2u

int main(void)
{
    char *page = page_alloc(), *mine = page_alloc(), *window = window_alloc();
    uint64_t frame = va_mfn(mine), bus;

    grants2_init();
    pte_map(window, 0);
    ktap_plan(60);

    /* A whole frame. */
    grant2(FIRST, page, GTF_permit_access);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    ok_value(va_mfn(window), va_mfn(page), "the frame");
    ok_value(statuses[FIRST], BITS, "read and written");
    ok_value(entries2[FIRST].hdr.flags, GTF_permit_access, "the entry stays as it is");
    statuses[FIRST] = 0;
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "unmapped");
    ok_value(statuses[FIRST], 0, "the owner's scribbling harms nobody");
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_readonly), GNTST_okay,
             "mapped read-only");
    ok_value(statuses[FIRST], GTF_reading, "it is read");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "unmapped");
    ok_value(statuses[FIRST], 0, "not in use");
    bus = va_mfn(page) << PAGE_SHIFT;
    ok_value(grant_map(FIRST, 0, GNTMAP_device_map), GNTST_okay, "for a device");
    ok_value(statuses[FIRST], BITS, "in use");
    ok_value(grant_unmap(last.handle, 0, bus), GNTST_okay, "given up");
    grant2(FIRST, page, GTF_permit_access | GTF_readonly);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_general_error,
             "read-only: not to be written");
    ok_value(statuses[FIRST], 0, "no trace is left");
    entry2(FIRST, GTF_permit_access, (domid_t)(self + 1), 0, va_mfn(page));
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_general_error, "of another");
    entry2(FIRST, GTF_permit_access, self, 0, ~0UL >> 4);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_bad_page, "no such frame");
    ok_value(statuses[FIRST], 0, "no trace is left");
    entry2(FIRST, GTF_accept_transfer, self, 0, va_mfn(page));
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_general_error, "a transfer");
    ok_value(grant_map(255, VA(window), GNTMAP_host_map), GNTST_general_error, "the last entry");
    entry2(FIRST, GTF_permit_access, self, 0xffffffff, va_mfn(page));
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "padding is ignored");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "unmapped");

    /* Part of a frame: to be copied only, and only that part. */
    page_fill(page, 1);
    grant_part(FIRST, page, GTF_permit_access, 100, 50);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_readonly), GNTST_general_error,
             "a part is not mapped");
    ok_value(statuses[FIRST], 0, "no trace is left");
    ok_value(copy(FIRST, self, 100, frame, DOMID_SELF, 0, 50, SOURCE), GNTST_okay, "all of it");
    ok(memcmp(mine, page + 100, 50) == 0, "came");
    ok_value(statuses[FIRST], 0, "not in use any more");
    ok_value(copy(FIRST, self, 99, frame, DOMID_SELF, 0, 10, SOURCE), GNTST_general_error,
             "a byte before");
    ok_value(copy(FIRST, self, 145, frame, DOMID_SELF, 0, 6, SOURCE), GNTST_general_error,
             "a byte behind");
    ok_value(copy(FIRST, self, 149, frame, DOMID_SELF, 0, 1, SOURCE), GNTST_okay, "the last byte");
    ok_value(copy(FIRST, self, 150, frame, DOMID_SELF, 0, 0, SOURCE), GNTST_okay,
             "nothing, at its end");
    ok_value(copy(FIRST, self, 4090, frame, DOMID_SELF, 0, 10, SOURCE), GNTST_bad_copy_arg,
             "beyond the page comes first");
    memcpy(mine, "written", 7);
    ok_value(copy(frame, DOMID_SELF, 0, FIRST, self, 143, 7, DEST), GNTST_okay, "to its end");
    ok(memcmp(page + 143, "written", 7) == 0, "arrived");
    ok_value(copy(frame, DOMID_SELF, 0, FIRST, self, 144, 7, DEST), GNTST_general_error,
             "beyond it");
    grant_part(FIRST, page, GTF_permit_access | GTF_readonly, 100, 50);
    ok_value(copy(frame, DOMID_SELF, 0, FIRST, self, 100, 7, DEST), GNTST_general_error,
             "a read-only part");
    ok_value(copy(FIRST, self, 100, frame, DOMID_SELF, 0, 7, SOURCE), GNTST_okay, "is read");
    grant_part(FIRST, page, GTF_permit_access, 4000, 4000);
    ok_value(copy(FIRST, self, 4090, frame, DOMID_SELF, 0, 6, SOURCE), GNTST_okay,
             "a part that ends outside the page");
    ok_value(copy(FIRST, self, 4090, frame, DOMID_SELF, 0, 7, SOURCE), GNTST_bad_copy_arg,
             "allows no more than the page");
    grant_part(FIRST, page, GTF_permit_access, 65535, 65535);
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 1, SOURCE), GNTST_general_error,
             "one that begins there allows nothing");

    /* Changed while it is in use: what counts is what it was. */
    grant2(FIRST, page, GTF_permit_access);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    grant_part(FIRST, page, GTF_permit_access, 100, 50);
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 10, SOURCE), GNTST_okay,
             "a copy of what is mapped");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "unmapped");
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 10, SOURCE), GNTST_general_error,
             "the new part counts now");

    /* Passed on: never mapped, not one's own, not of nobody. */
    entry2(FIRST, GTF_transitive, self, 999, va_mfn(page));
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_readonly), GNTST_general_error,
             "passed on: not mapped");
    ok_value(statuses[FIRST], 0, "no trace is left");
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 7, SOURCE), GNTST_general_error,
             "of nobody");
    ok_value(statuses[FIRST], 0, "no trace is left");
    grant2(FIRST + 1, page, GTF_permit_access);
    pass_on(FIRST, self, self, FIRST + 1);
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 7, SOURCE), GNTST_general_error,
             "one's own");
    ok_value(copy(frame, DOMID_SELF, 0, FIRST, self, 0, 7, DEST), GNTST_general_error,
             "to one's own");
    ok_value(statuses[FIRST], 0, "no trace is left");
    pass_on(FIRST, DOMID_SELF, 999, 1);
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 0, 7, SOURCE), GNTST_general_error,
             "granted to no number");

    /* Swapping, with the status words. */
    grant2(FIRST, page, GTF_permit_access);
    grant2(FIRST + 1, mine, GTF_permit_access | GTF_readonly);
    statuses[FIRST] = 0x40;
    ok_value(swap(FIRST, FIRST + 1), GNTST_okay, "swapped");
    ok_value(entries2[FIRST].full_page.frame, frame, "the frame");
    ok_value(entries2[FIRST].hdr.flags, GTF_permit_access | GTF_readonly, "the flags");
    ok_value(entries2[FIRST + 1].full_page.frame, va_mfn(page), "the other frame");
    ok_value(statuses[FIRST + 1], 0x40, "the status");
    ok_value(statuses[FIRST], 0, "and the other one");
    ok_value(swap(FIRST, 256), GNTST_bad_gntref, "there are 256 entries");
    ok_value(grant_map(256, VA(window), GNTMAP_host_map), GNTST_bad_gntref, "no more");
    return 0;
}
