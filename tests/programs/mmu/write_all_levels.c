// cowbird: description = a write needs W in the entries of all levels; a read does not
// cowbird: environments = pv64, pv32, xen
/*
 * Source: Intel SDM 3A, 4.6.1 (R/W is the AND over all levels). Xen lets a guest clear W in an
 * upper entry.
 */
#include "cowbird.h"

/* The L3 entries of a 32-bit guest (PAE) have no W; Xen sets it in them. */
#define LEVELS (TOP_LEVEL == 4 ? 4 : 2)

static char *const at = (char *)AWAY;

int main(void)
{
    char *page = page_alloc();

    ktap_plan(1 + 4 * LEVELS);
    ok_result(pte_map(at, make_pte(va_mfn(page), PTE_RW)), 0, "a writable page");
    for (int level = 1; level <= LEVELS; level++) {
        uint64_t where = pte_maddr_at(l4_current(), at, level);
        pte_t entry = pte_get_at(l4_current(), at, level);

        ok_result(pte_write(where, entry & ~PTE_W), 0, "W is cleared in the L%d entry", level);
        flush_tlb();
        ok_fault(probe_read(at), NO_FAULT, "a read");
        ok_fault(probe_write(at), PF(PF_P | PF_W), "no write");
        pte_write(where, entry);
        flush_tlb();
        ok_fault(probe_write(at), NO_FAULT, "set again, a write");
    }
    return 0;
}
