// cowbird: description = a denied access sets A in the levels it went through, not in the leaf
// cowbird: environments = pv64, pv32, xen
/*
 * The walk uses the upper entries, which sets their A bit, before it finds that the leaf does not
 * allow the access. D is set by a write that succeeds and by nothing else.
 *
 * The L4 entry is left out: with XPTI the real Xen gives the MMU a copy of the L4 table.
 *
 * Source: Intel SDM 3A, 4.8 (accessed: "used as part of a linear-address translation").
 */
#include "cowbird.h"

/* The L3 entries of a 32-bit guest (PAE) are Xen's to fill in. */
#define LEVELS (TOP_LEVEL == 4 ? 3 : 2)
#define ALL ((1U << LEVELS) - 1)
#define UPPER (ALL & ~1U)

static char *const at = (char *)AWAY;

/* The entries of `at` lose A; which levels (bit n - 1 for level n) have it after an access? */
static unsigned int levels_with_a(fault_t (*access)(char *))
{
    unsigned int found = 0;

    for (int level = 1; level <= LEVELS; level++)
        pte_write(pte_maddr_at(l4_current(), at, level),
                  pte_get_at(l4_current(), at, level) & ~(PTE_A | PTE_D));
    flush_tlb();
    access(at);
    for (int level = 1; level <= LEVELS; level++)
        if (pte_get_at(l4_current(), at, level) & PTE_A)
            found |= 1U << (level - 1);
    return found;
}

static fault_t reading(char *va)
{
    return probe_read(va);
}

static fault_t writing(char *va)
{
    return probe_write(va);
}

static fault_t fetching(char *va)
{
    return probe_exec(va);
}

static fault_t nothing(char *va)
{
    return va ? NO_FAULT : PF(0);
}

int main(void)
{
    char *page = page_alloc();
    mfn_t mfn = va_mfn(page);

    ktap_plan(9);
    page_fill_ret(page);
    ok_result(pte_map(at, make_pte(mfn, PTE_RO | PTE_NX)), 0, "a page with tables of its own");
    ok_value(levels_with_a(nothing), 0, "no access, no A");
    ok_value(levels_with_a(reading), ALL, "a read: all levels");
    ok_value(levels_with_a(writing), UPPER, "a denied write: those above, not L1");
    ok_value(pte_get(at) & PTE_D, 0, "and no D");
    ok_value(levels_with_a(fetching), UPPER, "a denied fetch: the same");
    ok_result(pte_map(at, 0), 0, "nothing there");
    ok_value(levels_with_a(reading), UPPER, "an absent leaf: the same");
    ok_value(pte_get(at), 0, "it stays empty");
    return 0;
}
