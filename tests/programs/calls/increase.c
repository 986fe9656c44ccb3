// cowbird: description = increase_reservation: frames without a PFN, with or without a list
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/common/memory.c (increase_reservation).
 */
#include "cowbird.h"

static xen_pfn_t extents[2];
static struct xen_memory_reservation call;

static long op(unsigned int command, xen_pfn_t *list, unsigned long count, unsigned int order)
{
    call = (struct xen_memory_reservation){list, count, order, 0, DOMID_SELF};
    return HYPERVISOR_memory_op(command, &call);
}

static long pages(void)
{
    struct xen_memory_domain who = {.domid = DOMID_SELF};

    return HYPERVISOR_memory_op(XENMEM_current_reservation, &who);
}

int main(void)
{
    char *window = window_alloc();
    long before;

    for (unsigned int i = 0; i < 4; i++)
        page_release(page_alloc());
    before = pages();
    ktap_plan(12);
    ok_result(op(XENMEM_increase_reservation, extents, 2, 0), 2, "two frames");
    ok_value(pages() - before, 2, "they count");
    ok_result(pte_set(window, make_pte(extents[1], PTE_RW)), 0, "one is mapped");
    ok_fault(probe_write(window), NO_FAULT, "and written");
    pte_set(window, 0);
    ok_result(op(XENMEM_decrease_reservation, extents, 2, 0), 2, "back");
    ok_value(pages() - before, 0, "they do not count");
    ok_result(op(XENMEM_increase_reservation, NULL, 1, 0), 1, "without a list: a frame, unnamed");
    ok_value(pages() - before, 1, "it counts");
    ok_result(op(XENMEM_increase_reservation, extents, 0, 0), 0, "none");
    ok_result(op(XENMEM_increase_reservation, extents, 1, 60), 0, "an impossible order");
    ok_result(op(XENMEM_increase_reservation, (xen_pfn_t *)BAD_ADDRESS, 1, 0), 0,
              "a bad list");
    ok_value(pages() - before, 1, "nothing was given for these");
    return 0;
}
