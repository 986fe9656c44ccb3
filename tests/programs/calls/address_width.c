// cowbird: description = memory_op and the address width asked for: frames below it, or none
// cowbird: environments = pv64, pv32, xen
/*
 * The low 8 bits of mem_flags: the guest wants frames whose addresses fit in so many bits. A width
 * of a page or less cannot be had; one that covers the whole machine asks for nothing.
 *
 * Source: memory.h (XENMEMF_address_bits); xen/common/memory.c (construct_memop_from_reservation).
 */
#include "cowbird.h"

static xen_pfn_t extent;

static long populate(unsigned int bits)
{
    struct xen_memory_reservation call = {&extent, 1, 0, bits, DOMID_SELF};

    extent = 0x100000;
    return HYPERVISOR_memory_op(XENMEM_populate_physmap, &call);
}

int main(void)
{
    for (unsigned int i = 0; i < 4; i++)
        page_release(page_alloc());
    ktap_plan(6);
    ok_result(populate(0), 1, "any");
    ok_result(populate(64), 1, "64 bits");
    ok_result(populate(32), 1, "32 bits");
    ok(extent < 1UL << 20, "it is below 4 GiB");
    ok_result(populate(12), 0, "12 bits: no frame has such an address");
    ok_result(populate(1), 0, "1 bit");
    return 0;
}
