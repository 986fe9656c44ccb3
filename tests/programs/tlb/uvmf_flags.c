// cowbird: description = update_va_mapping flushes as its flags say: every UVMF kind, every CPU set
// cowbird: environments = pv64, pv32, xen
/*
 * A page that was just written (so that the TLB has it) becomes read-only, and the next write must
 * see that. Behind the kind of flush stands whose TLBs: LOCAL, ALL, or a pointer to a bit map.
 *
 * Source: xen.h (UVMF_*).
 */
#include "cowbird.h"

static char *page;

static long protect(unsigned long flags)
{
    const pte_t entry = make_pte(va_mfn(page), PTE_RO);

    pte_protect(page, PTE_RW);
    probe_write(page);
    return HYPERVISOR_update_va_mapping((unsigned long)page, entry, flags);
}

int main(void)
{
    static const uint64_t cpus __attribute__((aligned(16))) = 1;
    const unsigned long set = (unsigned long)&cpus;
    const struct {
        unsigned long flags;
        const char *name;
    } kinds[] = {
        {UVMF_TLB_FLUSH | UVMF_LOCAL, "the whole TLB, here"},
        {UVMF_TLB_FLUSH | UVMF_ALL, "the whole TLB, everywhere"},
        {UVMF_TLB_FLUSH | UVMF_MULTI | set, "the whole TLB, by a set of CPUs"},
        {UVMF_INVLPG | UVMF_LOCAL, "one page, here"},
        {UVMF_INVLPG | UVMF_ALL, "one page, everywhere"},
        {UVMF_INVLPG | UVMF_MULTI | set, "one page, by a set of CPUs"},
    };

    page = page_alloc();
    ktap_plan(2 * ARRAY_SIZE(kinds) + 3);
    for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++) {
        ok_result(protect(kinds[i].flags), 0, "%s", kinds[i].name);
        ok_fault(probe_write(page), PF(PF_P | PF_W), "a write sees it");
    }
    ok_result(protect(UVMF_NONE), 0, "no flush");
    flush_page(page);
    ok_fault(probe_write(page), PF(PF_P | PF_W), "after one of its own a write sees it");
    ok_value(pte_get(page) & PTE_W, 0, "and so does who reads the entry");
    return 0;
}
