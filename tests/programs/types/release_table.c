// cowbird: description = decrease_reservation of a frame that is pinned, mapped or neither
// cowbird: environments = pv64, pv32, xen
/*
 * The domain gives its claim up at once. Whatever still refers to the frame, a mapping or a pin,
 * keeps it: it goes back to Xen, and stops to count, with the last of these.
 *
 * Source: xen/common/memory.c (guest_remove_page).
 */
#include "cowbird.h"

static long pages(void)
{
    struct xen_memory_domain who = {.domid = DOMID_SELF};

    return HYPERVISOR_memory_op(XENMEM_current_reservation, &who);
}

int main(void)
{
    char *page = page_alloc(), *table = page_alloc(), *free = page_alloc();
    const mfn_t mapped = va_mfn(page), pinned = va_mfn(table), unmapped = va_mfn(free);
    long before = pages();

    ktap_plan(13);
    ok_result(frame_release(mapped), 0, "a mapped frame is given back");
    ok_value(before - pages(), 0, "it counts as long as the mapping lives");
    ok_fault(probe_write(page), NO_FAULT, "which can be used");
    ok_result(frame_release(mapped), 0, "given back twice: nothing happens");
    ok_result(pte_set(page, 0), 0, "unmapped");
    ok_value(before - pages(), 1, "it no longer counts");
    ok_result(pte_set(page, make_pte(mapped, PTE_RO)), -EBUSY, "and is gone");

    make_table(table, 1);
    pte_set(table, 0);
    ok_result(frame_release(pinned), 0, "a pinned frame is given back");
    ok_result(unpin(pinned), 0, "its pin is still there");
    ok_result(pte_set(table, make_pte(pinned, PTE_RO)), -EBUSY, "now it is gone");

    pte_set(free, 0);
    ok_result(frame_release(unmapped), 0, "one that nothing refers to");
    ok_result(frame_release(unmapped), -EBUSY, "is gone at once");
    ok_value(before - pages(), 3, "three are gone");
    return 0;
}
