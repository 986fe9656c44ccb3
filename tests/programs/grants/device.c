// cowbird: description = a mapping for a device is a reference too, and is given up by its bus address
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/grant_table.h (GNTMAP_device_map); xen/common/grant_table.c (unmap_common).
 */
#include "grants.h"

int main(void)
{
    void *page = page_alloc(), *window = window_alloc();
    uint64_t bus;

    grants_init();
    pte_map(window, 0);
    grant(FIRST, page, GTF_permit_access);
    bus = va_mfn(page) << PAGE_SHIFT;
    ktap_plan(14);
    ok_value(grant_map(FIRST, VA(window), GNTMAP_host_map | GNTMAP_device_map), GNTST_okay,
             "mapped in both ways");
    ok_value(last.dev_bus_addr, bus, "its bus address");
    ok_value(grant_unmap(last.handle, VA(window), bus + 4096), GNTST_bad_dev_addr, "a wrong one");
    ok_value(va_mfn(window), va_mfn(page), "still mapped");
    ok_value(grant_unmap(last.handle, VA(window), 0), GNTST_okay, "the host's half");
    ok_value(pte_get(window), 0, "is gone");
    ok_value(grants[FIRST].flags, GTF_permit_access | BITS, "the device's is not");
    ok_value(grant_unmap(last.handle, 0, 0), GNTST_okay, "nothing to be unmapped is no error");
    ok_value(grant_unmap(last.handle, 0, bus), GNTST_okay, "the device's half");
    ok_value(grants[FIRST].flags, GTF_permit_access, "no longer in use");
    ok_value(grant_unmap(last.handle, 0, bus), GNTST_bad_handle, "the handle is gone");
    grant(FIRST, page, GTF_permit_access | GTF_readonly);
    ok_value(grant_map(FIRST, 0, GNTMAP_device_map | GNTMAP_readonly), GNTST_okay, "read-only");
    ok_value(grants[FIRST].flags, GTF_permit_access | GTF_readonly | GTF_reading, "is read");
    ok_value(grant_unmap(last.handle, 0, bus), GNTST_okay, "given up");
    return 0;
}
