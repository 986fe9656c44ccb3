// cowbird: description = NX in an entry of any level forbids fetches, and nothing else
/*
 * Source: Intel SDM 3A, 4.6.2 (XD is the OR over all levels).
 */
#include "cowbird.h"

static char *const at = (char *)0x400000000000;

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

    ktap_plan(14);
    page_fill_ret(page);
    ok_result(pte_map(at, make_pte(va_mfn(page), PTE_RW)), 0, "a page");
    ok_fault(probe_exec(at), NO_FAULT, "code runs there");
    for (int level = 1; level <= 4; level++) {
        ok_result(set_nx(level), 0, "NX in the L%d entry", level);
        flush_tlb();
        ok_fault(probe_exec(at), PF(PF_P | PF_I), "no fetch");
        ok_fault(probe_write(at + 8), NO_FAULT, "a write");
        clear_nx(level);
        flush_tlb();
    }
    return 0;
}
