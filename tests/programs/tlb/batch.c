// cowbird: description = many updates in one hypercall, one flush behind them
// cowbird: environments = pv64, pv32, xen
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

static struct multicall_entry update_of(char *page, pte_t rights, unsigned long flags)
{
    return (struct multicall_entry){
        .op = __HYPERVISOR_update_va_mapping,
        .result = 77,
        .args = {(unsigned long)page, HYPERCALL_U64(make_pte(va_mfn(page), rights)), flags},
    };
}

int main(void)
{
    struct multicall_entry calls[2];
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
    for (unsigned int i = 0; i < 2; i++)
        calls[i] = update_of(pages[i], PTE_RW, 0);
    ok_result(HYPERVISOR_multicall(calls, 2), 0, "two writable again, by multicall");
    ok_value(writable(), 2, "they are");
    calls[0] = update_of(pages[0], PTE_RO, UVMF_INVLPG | UVMF_ALL);
    ok_result(HYPERVISOR_multicall(calls, 1), 0, "one read-only, with its flush");
    ok_value(calls[0].result, 0, "its own result");
    ok_value(writable(), 1, "one is writable");
    return 0;
}
