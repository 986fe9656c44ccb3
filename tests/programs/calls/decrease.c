// cowbird: description = decrease_reservation: stops at the first frame that is not the caller's
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/common/memory.c (decrease_reservation, guest_remove_page).
 */
#include "cowbird.h"

static struct xen_memory_reservation call;

static long decrease(xen_pfn_t *list, unsigned long count)
{
    call = (struct xen_memory_reservation){list, count, 0, 0, DOMID_SELF};
    return HYPERVISOR_memory_op(XENMEM_decrease_reservation, &call);
}

int main(void)
{
    xen_pfn_t list[4], xens = 0;
    struct xen_machphys_mfn_list m2p_list = {.max_extents = 1, .extent_start = &xens};
    char *window = window_alloc();

    for (unsigned int i = 0; i < 4; i++) {
        char *page = page_alloc();

        list[i] = va_mfn(page);
        pte_set(page, 0);
    }
    HYPERVISOR_memory_op(XENMEM_machphys_mfn_list, &m2p_list);
    ktap_plan(10);
    ok_result(decrease(&xens, 1), 0, "the hypervisor's frame");
    ok_result(decrease(list, 1), 1, "one of four");
    ok_result(decrease(list, 4), 0, "that one again, first in the list: none");
    list[0] = list[3];
    list[3] = INVALID_MFN;
    ok_result(decrease(list, 4), 3, "three, then one that does not exist");
    ok_result(pte_set(window, make_pte(list[1], PTE_RO)), -EBUSY, "they are gone");
    ok_result(decrease(list, 0), 0, "none");
    ok_result(decrease((xen_pfn_t *)0x0000800000000000, 1), 0, "a bad list");
    call = (struct xen_memory_reservation){list, 1, 0, 0, 1234};
    ok_result(HYPERVISOR_memory_op(XENMEM_decrease_reservation, &call), 0, "no such domain");
    call = (struct xen_memory_reservation){list, 1, 60, 0, DOMID_SELF};
    ok_result(HYPERVISOR_memory_op(XENMEM_decrease_reservation, &call), 0, "an impossible order");
    call = (struct xen_memory_reservation){list, ~0UL >> 4, 0, 0, DOMID_SELF};
    ok_result(HYPERVISOR_memory_op(XENMEM_decrease_reservation, &call), 0, "too many extents");
    return 0;
}
