// cowbird: description = copies between frames, granted ones and one's own
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/common/grant_table.c (gnttab_copy_one and what it calls).
 */
#include "grants.h"

int main(void)
{
    char *page = page_alloc(), *mine = page_alloc(), *table = page_alloc();
    const unsigned int source = 1, dest = 2;
    mfn_t frame;

    grants_init();
    make_table(table, 1);
    frame = va_mfn(mine);
    grant(FIRST, page, GTF_permit_access);
    grant(FIRST + 1, page, GTF_permit_access | GTF_readonly);
    grant(FIRST + 2, table, GTF_permit_access);
    memcpy(page + 100, "granted", 7);
    ktap_plan(20);
    ok_value(copy(FIRST, self, 100, frame, DOMID_SELF, 4089, 7, source), GNTST_okay, "from");
    ok_value(memcmp(mine + 4089, "granted", 7), 0, "came");
    memcpy(mine, "written", 7);
    ok_value(copy(frame, DOMID_SELF, 0, FIRST, self, 1, 7, dest), GNTST_okay, "to");
    ok_value(memcmp(page + 1, "written", 7), 0, "arrived");
    ok_value(grants[FIRST].flags, GTF_permit_access, "not in use any more");
    ok_value(copy(frame, DOMID_SELF, 0, frame, DOMID_SELF, 50, 7, 0), GNTST_okay, "at home");
    ok_value(memcmp(mine + 50, "written", 7), 0, "arrived");
    ok_value(copy(FIRST + 1, self, 0, frame, DOMID_SELF, 0, 7, source), GNTST_okay, "read-only");
    ok_value(copy(frame, DOMID_SELF, 0, FIRST + 1, self, 0, 7, dest), GNTST_general_error,
             "to a read-only grant");
    ok_value(copy(frame, DOMID_SELF, 0, FIRST + 2, self, 0, 7, dest), GNTST_general_error,
             "to a page table");
    ok_value(copy(FIRST, self, 4090, frame, DOMID_SELF, 0, 7, source), GNTST_bad_copy_arg,
             "beyond the source");
    ok_value(copy(FIRST, self, 0, frame, DOMID_SELF, 4090, 7, source), GNTST_bad_copy_arg,
             "beyond the target");
    ok_value(copy(frame, self, 0, frame, DOMID_SELF, 0, 7, 0), GNTST_permission_denied,
             "a frame of oneself by number");
    ok_value(copy(FIRST, 999, 0, frame, DOMID_SELF, 0, 7, source), GNTST_bad_domain, "of nobody");
    ok_value(copy(100000000, self, 0, frame, DOMID_SELF, 0, 7, source), GNTST_bad_gntref,
             "no such entry");
    ok_value(copy(FIRST + 9, self, 0, frame, DOMID_SELF, 0, 7, source), GNTST_general_error,
             "nothing granted");
    ok_value(copy(~0UL >> 4, DOMID_SELF, 0, frame, DOMID_SELF, 0, 7, 0), GNTST_bad_page,
             "no such frame");
    ok_value(copy(frame, DOMID_SELF, 0, va_mfn(table), DOMID_SELF, 0, 7, 0), GNTST_general_error,
             "to one's own page table");
    ok_value(copy(FIRST, DOMID_SELF, 1, frame, DOMID_SELF, 9, 7, source), GNTST_okay,
             "DOMID_SELF is oneself here");
    ok_value(memcmp(mine + 9, page + 1, 7), 0, "arrived");
    return 0;
}
