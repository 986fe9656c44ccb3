// cowbird: description = NX in an entry of any level forbids fetches, and nothing else
// cowbird: environments = pv64, pv32, xen
/*
 * Source: Intel SDM 3A, 4.6.2 (XD is the OR over all levels).
 */
#include "cowbird.h"

/* The L3 entries of a 32-bit guest (PAE) have no NX. */
#define LEVELS (TOP_LEVEL == 4 ? 4 : 2)

static char *const at = (char *)AWAY;

static long set_nx(int level)
{
    return pte_write(pte_maddr_at(l4_current(), at, level),
                     pte_get_at(l4_current(), at, level) | PTE_NX);
}

static long clear_nx(int level)
{
    return pte_write(pte_maddr_at(l4_current(), at, level),
                     pte_get_at(l4_current(), at, level) & ~PTE_NX);
}

int main(void)
{
    char *page = page_alloc();

    ktap_plan(2 + 3 * LEVELS);
    page_fill_ret(page);
    ok_result(pte_map(at, make_pte(va_mfn(page), PTE_RW)), 0, "a page");
    ok_fault(probe_exec(at), NO_FAULT, "code runs there");
    for (int level = 1; level <= LEVELS; level++) {
        ok_result(set_nx(level), 0, "NX in the L%d entry", level);
        flush_tlb();
        ok_fault(probe_exec(at), PF(PF_P | PF_I), "no fetch");
        ok_fault(probe_write(at + 8), NO_FAULT, "a write");
        clear_nx(level);
        flush_tlb();
    }
    return 0;
}
