// cowbird: description = a frame given up through one mapping while others of it are still in the TLB
// cowbird: environments = pv64, pv32, xen
/*
 * What has been unmapped everywhere may go to somebody else; an old translation must not reach it.
 * XENMEM_exchange gives a new frame at once, and the address of the old one must show the new.
 *
 * Source: xen/common/memory.c (memory_exchange); Intel SDM 3A, 4.10.4.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *alias = window_alloc();
    xen_pfn_t in = va_mfn(page), out = va_pfn(page);
    struct xen_memory_exchange call = {
        .in = {&in, 1, 0, 0, DOMID_SELF},
        .out = {&out, 1, 0, 0, DOMID_SELF},
    };

    ktap_plan(9);
    ok_result(pte_set(alias, make_pte(in, PTE_RW)), 0, "two mappings");
    *page = 'a';
    ok_value(*alias, 'a', "both in the TLB");
    HYPERVISOR_update_va_mapping((unsigned long)page, 0, UVMF_NONE);
    ok_result(HYPERVISOR_update_va_mapping((unsigned long)alias, 0, UVMF_NONE), 0, "both unmapped");
    ok_result(HYPERVISOR_memory_op(XENMEM_exchange, &call), 0, "the frame goes, another comes");
    ok(out != in, "another");
    ok_result(pte_set(page, make_pte(out, PTE_RW)), 0, "is mapped");
    *page = 'b';
    ok_fault(probe_read(alias), PF(0), "the alias is gone");
    ok_result(pte_set(alias, make_pte(out, PTE_RO)), 0, "mapped again");
    ok_value(*alias, 'b', "it shows the new frame");
    return 0;
}
