// cowbird: description = every flush of mmuext_op makes an update visible that did not flush itself
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen.h (MMUEXT_TLB_FLUSH_*, MMUEXT_INVLPG_*).
 */
#include "cowbird.h"

static char *page;

/* Stale on purpose: the TLB may still have the entry with W. */
static void protect(void)
{
    pte_protect(page, PTE_RW);
    probe_write(page);
    HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(va_mfn(page), PTE_RO), UVMF_NONE);
}

int main(void)
{
    static const uint64_t cpus = 1;
    const struct {
        unsigned int command;
        const char *name;
    } flushes[] = {
        {MMUEXT_TLB_FLUSH_LOCAL, "TLB_FLUSH_LOCAL"}, {MMUEXT_INVLPG_LOCAL, "INVLPG_LOCAL"},
        {MMUEXT_TLB_FLUSH_MULTI, "TLB_FLUSH_MULTI"}, {MMUEXT_INVLPG_MULTI, "INVLPG_MULTI"},
        {MMUEXT_TLB_FLUSH_ALL, "TLB_FLUSH_ALL"},     {MMUEXT_INVLPG_ALL, "INVLPG_ALL"},
    };

    page = page_alloc();
    ktap_plan(2 * ARRAY_SIZE(flushes));
    for (unsigned int i = 0; i < ARRAY_SIZE(flushes); i++) {
        protect();
        ok_result(mmuext(flushes[i].command, (unsigned long)page + 5, (unsigned long)&cpus), 0,
                  "%s", flushes[i].name);
        ok_fault(probe_write(page), PF(PF_P | PF_W), "a write sees the update");
    }
    return 0;
}
