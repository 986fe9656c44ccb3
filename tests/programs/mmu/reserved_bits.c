// cowbird: description = bits that no present entry may have are refused, so that no #PF has RSVD
// cowbird: environments = pv64, pv32, xen
/*
 * Xen looks at the flags of every present entry before the MMU does: PS (there are no superpages
 * for PV guests), PWT and PCD, and in upper levels G are refused. An L1 entry may have G; bits 52
 * to 62 are the guest's (bit 62 of an L1 entry: see grant_bit.c).
 * Cache attributes in L1 are for domains with devices: the real Xen's first domain may have them.
 *
 * Source: xen/arch/x86/include/asm/x86_64/page.h (L1_DISALLOW_MASK to L4_DISALLOW_MASK).
 */
#include "cowbird.h"

/* What a 32-bit guest's L3 entries may have: see types/l3_rules.c. */
#define LEVELS (TOP_LEVEL == 4 ? 4 : 2)

static char *const at = (char *)AWAY;

static long with(int level, pte_t bits)
{
    uint64_t where = pte_maddr_at(l4_current(), at, level);
    pte_t entry = pte_get_at(l4_current(), at, level);
    long answer = pte_write(where, entry | bits);

    pte_write(where, entry);
    return answer;
}

int main(void)
{
    char *page = page_alloc();

    ktap_plan(3 + (LEVELS - 1) * 5 + 3);
    ok_result(pte_map(at, make_pte(va_mfn(page), PTE_RW)), 0, "a page");
    ok_result(with(1, PTE_G), 0, "L1: G");
    ok_result(with(1, UINT64_C(0x3ff) << 52), 0, "L1: bits 52 to 61");
    for (int level = 2; level <= LEVELS; level++) {
        ok_result(with(level, PTE_PS), -EINVAL, "L%d: PS", level);
        ok_result(with(level, PTE_PWT), -EINVAL, "L%d: PWT", level);
        ok_result(with(level, PTE_PCD), -EINVAL, "L%d: PCD", level);
        ok_result(with(level, PTE_G), -EINVAL, "L%d: G", level);
        ok_result(with(level, UINT64_C(0x7ff) << 52), 0, "L%d: bits 52 to 62", level);
    }
    ok_fault(probe_write(at), NO_FAULT, "the page is still there");
    if (is_privileged()) {
        skip("this domain has devices", "L1: PCD");
        skip("this domain has devices", "L1: PAT");
    } else {
        ok_result(with(1, PTE_PCD), -EINVAL, "L1: PCD");
        ok_result(with(1, PTE_PAT), -EINVAL, "L1: PAT");
    }
    return 0;
}
