// cowbird: description = what is granted and mapped is not shared, and what is shared is not granted
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/*
 * Domain 1 grants a page, domain 2 maps it. Neither can share it meanwhile: its owner because the
 * frame has another reference, the other because it does not own it. Both see what either writes.
 */
#include "grants.h"

#include "../share/two_domains.h"

static int first(void)
{
    char *page = page_alloc();

    ktap_plan(5);
    grants_init();
    grants[FIRST].domid = 2;
    grants[FIRST].frame = (uint32_t)va_mfn(page);
    grants[FIRST].flags = GTF_permit_access;
    page[0] = 'a';
    meet();
    tell();
    wait(); /* it is mapped */
    ok_value(page[0], 'b', "what the other wrote");
    ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "in use");
    ok_result(HYPERVISOR_make_ro_and_share(VA(page), 0, 0), -EBUSY, "a frame that others map");
    tell();
    wait(); /* it is unmapped */
    ok_value(grants[FIRST].flags, GTF_permit_access, "no longer in use");
    ok_result(HYPERVISOR_make_ro_and_share(VA(page), 0, 0), 0, "now it is shared");
    tell();
    wait();
    return 0;
}

static int second(void)
{
    volatile char *window = window_alloc();
    uint32_t handle;

    ktap_plan(8);
    grants_init();
    pte_map((void *)window, 0);
    self = 1; /* whose grants are mapped */
    meet();
    wait();
    ok_value(grant_map(FIRST + 1, VA(window), GNTMAP_host_map), GNTST_general_error, "nothing");
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    handle = last.handle;
    ok_value(window[0], 'a', "what the owner wrote");
    window[0] = 'b';
    ok_result(HYPERVISOR_make_ro_and_share(VA(window), 0, 0), -EPERM, "the frame is a grant");
    ok(pte_set((void *)window, make_pte(va_mfn((void *)window), PTE_RO)) < 0,
       "no other entry maps it");
    tell();
    wait();
    ok_value(grant_unmap(handle, VA(window), 0), GNTST_okay, "unmapped");
    tell();
    wait();
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_bad_page, "it is shared");
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_readonly), GNTST_bad_page,
             "not even to be read");
    tell();
    return 0;
}

int main(void)
{
    return is_first() ? first() : second();
}
