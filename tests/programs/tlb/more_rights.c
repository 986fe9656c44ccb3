// cowbird: description = an update that only adds rights needs no flush
// cowbird: environments = pv64, pv32, xen
/*
 * The CPU walks again before it reports a fault that a stale TLB entry would cause, and drops that
 * entry; absent ones are never cached.
 *
 * Source: Intel SDM 3A, 4.10.4.3 (optional invalidation).
 */
#include "cowbird.h"

static char *page;

static long update(uint64_t flags)
{
    return HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(p2m[va_pfn(page)], flags),
                                        UVMF_NONE);
}

int main(void)
{
    page = page_alloc();
    page_fill_ret(page);
    ktap_plan(10);
    ok_result(pte_set(page, 0), 0, "unmapped");
    ok_fault(probe_read(page), PF(0), "a read faults");
    ok_result(update(PTE_RO | PTE_NX), 0, "mapped, read-only and NX");
    ok_fault(probe_read(page), NO_FAULT, "a read");
    ok_fault(probe_write(page + 1), PF(PF_P | PF_W), "a write faults");
    ok_result(update(PTE_RW | PTE_NX), 0, "writable");
    ok_fault(probe_store(page + 8, 0xc3), NO_FAULT, "a write");
    ok_fault(probe_exec(page), PF(PF_P | PF_I), "a fetch faults");
    ok_result(update(PTE_RW), 0, "without NX");
    ok_fault(probe_exec(page), NO_FAULT, "a fetch");
    return 0;
}
