// cowbird: description = one L1 table under two L2 entries: two views of the same pages
// cowbird: environments = pv64, pv32, xen
/*
 * Nothing forbids it; the table counts both.
 *
 * Source: xen/arch/x86/mm.c (get_page_from_l2e).
 */
#include "cowbird.h"

static char *const one = (char *)AWAY;
static char *const two = (char *)AWAY + (1UL << 21);

int main(void)
{
    char *page = page_alloc(), *table;
    uint64_t second;
    pte_t entry;

    ktap_plan(11);
    ok_result(pte_map(one, make_pte(va_mfn(page), PTE_RW)), 0, "a page");
    entry = pte_get_at(l4_current(), one, 2);
    second = pte_maddr_at(l4_current(), one, 2) + 8;
    table = pfn_va(m2p[pte_mfn(entry)]);
    ok_result(pte_write(second, entry), 0, "its L1 table a second time");
    ok_fault(probe_write(two), NO_FAULT, "the page is there too");
    ok_value(*one, 0x5a, "and the same");
    ok_result(pte_set(two, make_pte(va_mfn(page), PTE_RO)), 0, "read-only by the one address");
    flush_tlb();
    ok_fault(probe_write(one), PF(PF_P | PF_W), "is so by the other");
    ok_result(pte_write(pte_maddr_at(l4_current(), one, 2), 0), 0, "the first goes");
    flush_tlb();
    ok_fault(probe_read(two), NO_FAULT, "the second stays");
    ok_result(pte_protect(table, PTE_RW), -EBUSY, "so it is still a table");
    ok_result(pte_write(second, 0), 0, "the second goes");
    ok_result(pte_protect(table, PTE_RW), 0, "now it is not");
    return 0;
}
