// cowbird: description = a domain ends while another maps its frame: the frame stays until it is unmapped
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/*
 * Source: xen/common/grant_table.c (gnttab_release_mappings); a frame lives as long as it is
 * referred to, whoever owned it.
 */
#include "grants.h"

#include "../share/two_domains.h"

int main(void)
{
    char *page = page_alloc();
    volatile char *window = window_alloc();

    grants_init();
    if (is_first()) {
        ktap_plan(1);
        memcpy(page, "inherited", 10);
        grants[FIRST].domid = 2;
        grants[FIRST].frame = (uint32_t)va_mfn(page);
        grants[FIRST].flags = GTF_permit_access;
        meet();
        tell();
        wait();
        ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "in use to the end");
        return 0;
    }
    ktap_plan(4);
    pte_map((void *)window, 0);
    self = 1;
    meet();
    wait();
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    tell();
    while (grant_map(FIRST + 1, 0, GNTMAP_host_map) != GNTST_bad_domain)
        yield();
    ok(memcmp((void *)window, "inherited", 10) == 0, "what the owner left");
    ok_value(grant_unmap(77, VA(window), 0), GNTST_bad_handle, "a handle that never was");
    ok_value(grant_unmap(0, VA(window), 0), GNTST_okay, "unmapped");
    return 0;
}
