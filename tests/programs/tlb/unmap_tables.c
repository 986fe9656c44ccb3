// cowbird: description = a whole table taken out at L2, L3 or L4 (if there is one): all below is gone, and can return
// cowbird: environments = pv64, pv32, xen
/*
 * The walk stops at the first entry that is absent; what the TLB and the paging-structure caches
 * had from below goes with the flush.
 *
 * Source: Intel SDM 3A, 4.10.4.1.
 */
#include "cowbird.h"

static char *const at = (char *)AWAY;
static char *const far = (char *)AWAY + (511UL << 12);

int main(void)
{
    char *page = page_alloc();

    ktap_plan(2 + 4 * (TOP_LEVEL - 1));
    memset(page, 'x', PAGE_SIZE);
    ok_result(pte_map(at, make_pte(va_mfn(page), PTE_RW)), 0, "a page");
    ok_result(pte_map(far, make_pte(va_mfn(page), PTE_RW)), 0, "and one at the table's end");
    for (int level = 2; level <= TOP_LEVEL; level++) {
        const uint64_t where = pte_maddr_at(l4_current(), at, level);
        const pte_t entry = pte_get_at(l4_current(), at, level);

        /* Kept as a table meanwhile: without a reference its entries would give theirs back. */
        pin(pte_mfn(entry), level - 1);
        probe_write(at);
        ok_result(pte_write(where, 0), 0, "the L%d entry is cleared", level);
        flush_tlb();
        ok_fault(probe_read(at), PF(0), "nothing at its first page");
        ok_fault(probe_write(far), PF(PF_W), "nor at its last");
        pte_write(where, entry);
        unpin(pte_mfn(entry));
        flush_tlb();
        ok_fault(probe_write(far), NO_FAULT, "it comes back");
    }
    return 0;
}
