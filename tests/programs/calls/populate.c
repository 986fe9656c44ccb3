// cowbird: description = populate_physmap: extents, orders, partial success, what cannot be read
// cowbird: environments = pv64, pv32, xen
/*
 * The answer counts extents and is never an errno; where nothing can be done it is 0, or the extent
 * that the call was told to begin with.
 *
 * Source: xen/common/memory.c (populate_physmap, do_memory_op).
 */
#include "cowbird.h"

#define FREE_PFN 0x100000UL /* any number does: PFNs are the guest's own */

static xen_pfn_t extents[4];
static struct xen_memory_reservation call;

static long populate(unsigned long count, unsigned int order)
{
    call = (struct xen_memory_reservation){extents, count, order, 0, DOMID_SELF};
    for (unsigned int i = 0; i < 4; i++)
        extents[i] = FREE_PFN + (i << order);
    return HYPERVISOR_memory_op(XENMEM_populate_physmap, &call);
}

static long give_back(unsigned long count, unsigned int order)
{
    call = (struct xen_memory_reservation){extents, count, order, 0, DOMID_SELF};
    return HYPERVISOR_memory_op(XENMEM_decrease_reservation, &call);
}

int main(void)
{
    for (unsigned int i = 0; i < 6; i++)
        page_release(page_alloc()); /* so that the domain may have more */
    ktap_plan(14);
    ok_result(populate(3, 0), 3, "three frames");
    ok(extents[0] != FREE_PFN && extents[1] != extents[0], "their MFNs stand in the list");
    ok_value(m2p[extents[2]], FREE_PFN + 2, "M2P has their PFNs");
    ok_result(give_back(3, 0), 3, "back");
    ok_result(populate(1, 2), 1, "four frames in a row");
    ok_value(extents[0] & 3, 0, "aligned");
    ok_value(m2p[extents[0] + 3], FREE_PFN + 3, "M2P of the last");
    ok_result(give_back(1, 2), 1, "back");
    ok_result(populate(0, 0), 0, "none");
    ok_result(populate(1, 60), 0, "an impossible order");
    call = (struct xen_memory_reservation){extents, 1, 0, 0, 1234};
    ok_result(HYPERVISOR_memory_op(XENMEM_populate_physmap, &call), 0, "no such domain");
    call = (struct xen_memory_reservation){(xen_pfn_t *)0x0000800000000000, 1, 0, 0, DOMID_SELF};
    ok_result(HYPERVISOR_memory_op(XENMEM_populate_physmap, &call), 0, "a bad list");
    ok_result(HYPERVISOR_memory_op(XENMEM_populate_physmap, (void *)0x0000800000000000), 0,
              "a bad structure");
    call = (struct xen_memory_reservation){extents, 2, 0, 0, DOMID_SELF};
    ok_result(HYPERVISOR_memory_op(XENMEM_populate_physmap | 2 << 6, &call), 2,
              "begun behind the last extent: that many are done");
    return 0;
}
