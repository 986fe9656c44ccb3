// cowbird: description = A and D of an L1 entry: what sets them, and that nothing else does
// cowbird: environments = pv64, pv32, xen
/*
 * A read or fetch sets A, a write A and D; an entry that was only written by hypercall keeps what
 * the guest gave it.
 *
 * Source: Intel SDM 3A, 4.8.
 */
#include "cowbird.h"

#define AD (PTE_A | PTE_D)

static char *page;

static void fresh(void)
{
    pte_set(page, make_pte(va_mfn(page), PTE_P | PTE_W));
}

int main(void)
{
    unsigned long word = 0;

    page = page_alloc();
    page_fill_ret(page);
    ktap_plan(13);
    fresh();
    ok_value(pte_get(page) & AD, 0, "an entry without A and D has neither");
    ok_fault(probe_read(page), NO_FAULT, "a read");
    ok_value(pte_get(page) & AD, PTE_A, "sets A");
    ok_fault(probe_write(page + 1), NO_FAULT, "a write after a read");
    ok_value(pte_get(page) & AD, AD, "sets D too, though the TLB had the entry");
    fresh();
    ok_fault(probe_store(page, (unsigned long)0xc3c3c3c3c3c3c3c3), NO_FAULT, "a write at first");
    ok_value(pte_get(page) & AD, AD, "sets both");
    fresh();
    ok_fault(probe_exec(page), NO_FAULT, "a fetch");
    ok_value(pte_get(page) & AD, PTE_A, "sets A");
    fresh();
    __asm__ volatile("lock xadd %0, (%1)" : "+r"(word) : "r"(page) : "memory");
    ok_value(pte_get(page) & AD, AD, "a locked add of zero is a write");
    fresh();
    word = 1;
    __asm__ volatile("cmpxchg %1, (%0)" : : "r"(page), "r"(0UL), "a"(word) : "memory", "cc");
    ok_value(pte_get(page) & AD, AD, "a cmpxchg that does not store is one as well");
    ok_result(pte_set(page, make_pte(va_mfn(page), PTE_RO)), 0, "an entry with A");
    ok_value(pte_get(page) & AD, PTE_A, "has it at once");
    return 0;
}
