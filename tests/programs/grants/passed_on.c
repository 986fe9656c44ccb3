// cowbird: description = a grant is passed on: copied through two tables, never mapped
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs three domains
// cowbird: domains = owner, middle, user
// cowbird: cmdline.owner = owner
// cowbird: cmdline.middle = middle
// cowbird: cmdline.user = user
/*
 * Source: xen/grant_table.h (GTF_transitive); xen/common/grant_table.c (acquire_grant_for_copy).
 * The three agree by time: each waits long enough for those before it.
 */
#include "grants2.h"

#include "../share/two_domains.h"

static bool is(const char *name)
{
    return strcmp((const char *)start_info->cmd_line, name) == 0;
}


int main(void)
{
    char *page = page_alloc(), *window = window_alloc();
    unsigned int tries = 0;

    pte_map(window, 0);
    if (is("owner")) {
        ktap_plan(2);
        grants_init();
        memcpy(page, "from afar", 10);
        grants[FIRST].domid = 2;
        grants[FIRST].frame = (uint32_t)va_mfn(page);
        grants[FIRST].flags = GTF_permit_access;
        while (memcmp(page + 100, "and back", 8) && tries++ < 10000)
            yield();
        ok(memcmp(page + 100, "and back", 8) == 0, "written by a domain that was granted nothing");
        ok_value(grants[FIRST].flags & ~BITS, GTF_permit_access, "the entry");
        return 0;
    }
    if (is("middle")) {
        ktap_plan(1);
        grants2_init();
        pass_on(FIRST + 1, 3, 1, FIRST);
        while (entries2[FIRST + 2].hdr.flags == 0 && tries++ < 200)
            yield();
        ok_value(statuses[FIRST + 1], 0, "not in use any more");
        return 0;
    }
    ktap_plan(5);
    while (copy(FIRST + 1, 2, 0, va_mfn(page), DOMID_SELF, 0, 10, 1) && tries++ < 10000)
        yield();
    ok(memcmp(page, "from afar", 10) == 0, "copied");
    self = 2;
    ok_value(grant_map(FIRST + 1, VA(window), GNTMAP_host_map | GNTMAP_readonly),
             GNTST_general_error, "not mapped");
    self = 1;
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_readonly), GNTST_general_error,
             "nor by the owner's own entry, which is another's");
    memcpy(page, "and back", 8);
    ok_value(copy(va_mfn(page), DOMID_SELF, 0, FIRST + 1, 2, 100, 8, 2), GNTST_okay, "written");
    ok_value(copy(va_mfn(page), DOMID_SELF, 0, FIRST, 1, 100, 8, 2), GNTST_general_error,
             "not without the one in the middle");
    return 0;
}
