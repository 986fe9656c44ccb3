// cowbird: description = many updates in one hypercall, one flush behind them
/*
 * Source: xen.h (mmu_update; multicall).
 */
#include "cowbird.h"

#define PAGES 48

static struct mmu_update updates[PAGES];
static char *pages[PAGES];

static unsigned int writable(void)
{
    unsigned int count = 0;

    for (unsigned int i = 0; i < PAGES; i++)
        count += probe_write(pages[i]) == NO_FAULT;
    return count;
}

int main(void)
{
    struct multicall_entry calls[2] = {{.op = __HYPERVISOR_update_va_mapping},
                                       {.op = __HYPERVISOR_update_va_mapping}};
    unsigned int done = 0;

    ktap_plan(9);
    for (unsigned int i = 0; i < PAGES; i++) {
        pages[i] = page_alloc();
        updates[i].ptr = pte_maddr(pages[i]);
        updates[i].val = make_pte(va_mfn(pages[i]), PTE_RO);
    }
    ok_value(writable(), PAGES, "all are writable");
    ok_result(HYPERVISOR_mmu_update(updates, PAGES, &done, DOMID_SELF), 0, "made read-only");
    ok_value(done, PAGES, "all done");
    flush_tlb();
    ok_value(writable(), 0, "none is writable");
    for (unsigned int i = 0; i < 2; i++) {
        calls[i].args[0] = (unsigned long)pages[i];
        calls[i].args[1] = make_pte(va_mfn(pages[i]), PTE_RW);
    }
    ok_result(HYPERVISOR_multicall(calls, 2), 0, "two writable again, by multicall");
    ok_value(writable(), 2, "they are");
    calls[0].args[1] = make_pte(va_mfn(pages[0]), PTE_RO);
    calls[0].args[2] = UVMF_INVLPG | UVMF_ALL;
    ok_result(HYPERVISOR_multicall(calls, 1), 0, "one read-only, with its flush");
    ok_value(calls[0].result, 0, "its own result");
    ok_value(writable(), 1, "one is writable");
    return 0;
}
