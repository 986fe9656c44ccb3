// cowbird: description = XENMEM_exchange: frames for others, all of a chunk or nothing
// cowbird: environments = pv64, pv32, xen
/*
 * Frames that nothing refers to go, as many others come. Their PFNs are those in the out list.
 *
 * Source: xen/common/memory.c (memory_exchange).
 */
#include "cowbird.h"

static xen_pfn_t in[4], out[4];
static struct xen_memory_exchange call;

static long exchange(unsigned long in_count, unsigned int in_order, unsigned long out_count,
                     unsigned int out_order)
{
    call = (struct xen_memory_exchange){
        .in = {in, in_count, in_order, 0, DOMID_SELF},
        .out = {out, out_count, out_order, 0, DOMID_SELF},
    };
    return HYPERVISOR_memory_op(XENMEM_exchange, &call);
}

int main(void)
{
    char *pages[4];

    for (unsigned int i = 0; i < 4; i++) {
        pages[i] = page_alloc();
        in[i] = va_mfn(pages[i]);
        out[i] = va_pfn(pages[i]);
    }
    ktap_plan(18);
    ok_result(exchange(1, 0, 1, 0), -EINVAL, "a mapped frame");
    ok_value(call.nr_exchanged, 0, "none done");
    ok_fault(probe_write(pages[0]), NO_FAULT, "it is as it was");
    for (unsigned int i = 0; i < 4; i++)
        pte_set(pages[i], 0);
    ok_result(exchange(1, 0, 1, 0), 0, "one that nothing refers to");
    ok_value(call.nr_exchanged, 1, "done");
    ok_value(m2p[out[0]], va_pfn(pages[0]), "the new frame has the PFN");
    ok_result(pte_set(pages[0], make_pte(out[0], PTE_RW)), 0, "and can be mapped");
    pte_set(pages[0], 0);
    in[0] = out[0];
    for (unsigned int i = 0; i < 4; i++)
        out[i] = va_pfn(pages[i]);
    ok_result(exchange(4, 0, 1, 2), 0, "four for four in a row");
    ok_value(call.nr_exchanged, 4, "counted as they went in");
    ok_value(out[0] & 3, 0, "aligned");
    in[0] = out[0];
    for (unsigned int i = 0; i < 4; i++)
        out[i] = va_pfn(pages[i]);
    ok_result(exchange(1, 2, 4, 0), 0, "and back into single ones");
    ok_value(m2p[out[3]], va_pfn(pages[3]), "the last one's PFN");

    in[0] = out[0];
    ok_result(exchange(1, 0, 2, 0), -EINVAL, "one for two");
    in[1] = in[0];
    ok_result(exchange(2, 0, 2, 0), -EINVAL, "the same frame twice");
    in[0] = l4_current();
    ok_result(exchange(1, 0, 1, 0), -EINVAL, "a page table");
    call.in.domid = 1234;
    call.out.domid = 1234;
    ok_result(HYPERVISOR_memory_op(XENMEM_exchange, &call), -ESRCH, "no such domain");
    call.out.domid = DOMID_SELF;
    ok_result(HYPERVISOR_memory_op(XENMEM_exchange, &call), -EINVAL, "two domains");
    ok_result(exchange(1, 60, 1, 60), -EPERM, "an order beyond what a domain may ask for");
    return 0;
}
