// cowbird: description = a linear page table: an entry that names its own table, read-only
/*
 * An old way for a kernel to see all its tables as an array. The entry may not be writable, and
 * holds no reference: it would keep the table alive for ever.
 *
 * Source: docs/misc/xen-command-line (pv-linear-pt); xen/arch/x86/mm.c (get_l4_linear_pagetable).
 */
#include "cowbird.h"

#define SLOT 300UL

int main(void)
{
    const mfn_t l4 = l4_current();
    const uint64_t where = l4 << PAGE_SHIFT | SLOT << 3;
    /* Four times the slot: the L4 itself seen as a page. */
    const uint64_t *seen =
        (const uint64_t *)(0xffff000000000000 | SLOT << 39 | SLOT << 30 | SLOT << 21 | SLOT << 12);
    char *table = page_alloc();

    ktap_plan(11);
    ok_result(pte_write(where, make_pte(l4, PTE_TABLE)), -EINVAL, "writable it is refused");
    ok_result(pte_write(where, make_pte(l4, PTE_TABLE & ~PTE_W)), 0, "read-only it is allowed");
    ok_value(pte_mfn(seen[SLOT]), l4, "the table can be read through itself");
    ok_value(seen[511] & PTE_FRAME, table_read(l4, 511) & PTE_FRAME, "all of it");
    ok_fault(probe_write((void *)seen), PF(PF_P | PF_W), "not written");
    ok_result(pte_write(where, 0), 0, "cleared");

    for (int level = 2; level <= 4; level++) {
        mfn_t mfn = va_mfn(table);

        pte_protect(table, PTE_RW);
        *(uint64_t *)table = make_pte(mfn, PTE_TABLE & ~PTE_W);
        make_table(table, level);
        ok_result(unpin(mfn), 0, "an L%d that holds itself can be unpinned", level);
    }
    ok_result(pte_protect(table, PTE_RW), 0, "and nothing of it is left");
    memset(table, 0, PAGE_SIZE); /* as an L4 it had Xen's entries */
    *(uint64_t *)table = make_pte(va_mfn(table), PTE_TABLE & ~PTE_W);
    ok_result(make_table(table, 1), 0, "an L1 that maps itself read-only is an ordinary mapping");
    return 0;
}
