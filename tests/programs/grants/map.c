// cowbird: description = a grant is mapped and unmapped; the bits in its entry follow
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h; xen/common/grant_table.c (map_grant_ref, unmap_common).
 */
#include "grants.h"

int main(void)
{
    volatile char *page = page_alloc(), *window = window_alloc(), *other = window_alloc();
    uint32_t handle, reader;

    grants_init();
    pte_map(window, 0);
    pte_map(other, 0);
    grant(FIRST, (void *)page, GTF_permit_access);
    ktap_plan(19);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map), GNTST_okay, "mapped");
    handle = last.handle;
    ok_value(last.dev_bus_addr, va_mfn((void *)page) << PAGE_SHIFT, "its machine address");
    ok_value(va_mfn((void *)window), va_mfn((void *)page), "the entry maps the frame");
    ok_value(pte_get((void *)window) & (PTE_P | PTE_W | PTE_NX), PTE_P | PTE_W | PTE_NX,
             "writable, not executable");
    ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "reading and writing");
    page[5] = 42;
    ok_value(window[5], 42, "a store to one");
    window[6] = 43;
    ok_value(page[6], 43, "is seen through the other");
    ok_value(grant_map(FIRST, VA(other), GNTMAP_host_map | GNTMAP_readonly), GNTST_okay,
             "a second time, read-only");
    reader = last.handle;
    ok_value(other[6], 43, "it reads");
    ok_fault(probe_write((void *)other), PF(PF_P | PF_W), "and cannot be written");
    ok_value(grant_unmap(handle, VA(other), 0), GNTST_general_error, "the other's address");
    ok_value(grant_unmap(handle + 100000, VA(window), 0), GNTST_bad_handle, "no such handle");
    ok_value(grant_unmap(handle, VA(window), 4096), GNTST_okay,
             "unmapped; a bus address says nothing of a mapping that has none");
    ok_value(pte_get((void *)window), 0, "nothing is there now");
    ok_value(grants[FIRST].flags, GTF_permit_access | GTF_reading, "still read");
    ok_value(grant_unmap(handle, VA(window), 0), GNTST_bad_handle, "unmapped twice");
    ok_value(grant_unmap(reader, VA(other), 0), GNTST_okay, "the reader too");
    ok_value(grants[FIRST].flags, GTF_permit_access, "no longer in use");
    ok_fault(probe_read((void *)window), PF(0), "nothing can be read there");
    return 0;
}
