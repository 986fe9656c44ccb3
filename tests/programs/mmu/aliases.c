// cowbird: description = two mappings of one frame, each with rights and A and D of its own
// cowbird: environments = pv64, pv32, xen
/*
 * Rights belong to the mapping, contents to the frame.
 *
 * Source: Intel SDM 3A, 4.6 and 4.8.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *alias = window_alloc();
    mfn_t mfn = va_mfn(page);

    ktap_plan(10);
    ok_result(pte_set(alias, make_pte(mfn, PTE_P | PTE_NX)), 0, "a second, read-only mapping");
    ok_value(m2p[mfn], va_pfn(page), "M2P knows the first");
    page_fill(page, 9);
    ok(page_check(alias, 9), "what the one wrote the other reads");
    ok_fault(probe_write(alias), PF(PF_P | PF_W), "but may not write");
    ok_fault(probe_write(page), NO_FAULT, "as the first may");
    ok_value(*alias, 0x5a, "and it is seen at once");
    ok_value(pte_get(alias) & (PTE_A | PTE_D), PTE_A, "A without D there");
    ok_result(pte_set(page, 0), 0, "the first goes");
    ok_value(*alias, 0x5a, "the frame stays");
    ok_result(pte_set(page, make_pte(mfn, PTE_RW)), 0, "and comes back");
    return 0;
}
