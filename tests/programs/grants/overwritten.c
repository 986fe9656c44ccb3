// cowbird: description = an entry that maps a grant may be overwritten: the mapping is gone, its handle is not
// cowbird: environments = pv64, pv32, xen
/*
 * A release build of Xen does not mark such entries, and lets the guest lose them. The grant stays
 * in use until the domain ends, which the bits in the entry tell its owner.
 *
 * Source: xen/arch/x86/mm.c (put_page_from_l1e); xen/common/grant_table.c.
 */
#include "grants.h"

int main(void)
{
    void *page = page_alloc(), *window = window_alloc();

    grants_init();
    pte_map(window, 0);
    grant(FIRST, page, GTF_permit_access);
    ktap_plan(5);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    ok_result(pte_set(window, 0), 0, "overwritten");
    ok_fault(probe_read(window), PF(0), "nothing can be read there");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_general_error, "not to be unmapped");
    ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "in use for ever");
    return 0;
}
