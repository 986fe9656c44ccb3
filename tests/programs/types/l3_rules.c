// cowbird: description = the four entries of an L3 table (PAE): what they may hold, and Xen's own one
// cowbird: environments = pv32
/*
 * The last L3 entry leads to the L2 table in which Xen has its part, so it must be there, and that L2
 * table must be no other table's. Of the flags in an L3 entry only P and the AVL bits are the guest's
 * (PWT, PCD, PS, G and NX are refused).
 *
 * Source: xen/arch/x86/mm.c (alloc_l3_table, create_pae_xen_mappings, COMPAT_L3_DISALLOW_MASK).
 */

#include "cowbird.h"

static pte_t *top, *kernel, *other;

/* Fills the two tables as those of an address space with the kernel in it. */
static void fill(void)
{
    mfn_t mine = pte_mfn(table_read(l4_current(), L3_XEN));

    pte_protect(top, PTE_RW);
    memset(top, 0, PAGE_SIZE);
    for (unsigned int slot = 0; slot < L2_XEN_FIRST; slot++)
        kernel[slot] = table_read(mine, slot);
    pte_protect(kernel, PTE_RO);
}

static long pin_with(unsigned int slot, pte_t entry)
{
    long answer;

    pte_protect(top, PTE_RW);
    top[slot] = entry;
    pte_protect(top, PTE_RO);
    answer = pin(va_mfn(top), 3);
    if (!answer)
        unpin(va_mfn(top));
    return answer;
}

int main(void)
{
    uint64_t where;
    pte_t l2;

    top = page_alloc();
    kernel = page_alloc();
    other = page_alloc();
    ktap_plan(20);
    fill();
    pte_protect(other, PTE_RO);
    ok_result(pin_with(0, 0), -EINVAL, "an empty L3 table: Xen's entry is missing");
    ok_result(pin_with(0, make_pte(va_mfn(other), PTE_P)), -EINVAL, "with another one: the same");
    pin_with(0, 0);
    ok_result(pin_with(3, table_read(l4_current(), L3_XEN) & (PTE_FRAME | PTE_P)), -EINVAL,
              "the L2 table of the current address space: it has one L3 table already");
    ok_result(pin_with(3, make_pte(va_mfn(kernel), PTE_P)), 0, "one of its own");
    ok_result(pin_with(0, make_pte(va_mfn(kernel), PTE_P)), -EINVAL,
              "in another entry as well: refused");
    pin_with(0, 0);
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_AVL)), 0, "AVL bits");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_W | PTE_U)), 0,
              "W and U, which Xen sets anyway");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_PWT)), -EINVAL, "PWT");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_PCD)), -EINVAL, "PCD");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_PS)), -EINVAL, "PS");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_G)), -EINVAL, "G");
    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P | PTE_NX)), -EINVAL, "NX");

    ok_result(pin_with(1, make_pte(va_mfn(other), PTE_P)), 0, "a good table");
    pin(va_mfn(top), 3);
    ok_result(l4_load(va_mfn(top)), 0, "is loaded");
    ok_value(m2p[va_mfn(top)], va_pfn(top), "Xen's part is in it");
    where = (uint64_t)va_mfn(top) << PAGE_SHIFT;
    l2 = make_pte(va_mfn(other), PTE_P);
    ok_result(pte_write(where, l2), 0, "an entry of the loaded table can be written");
    ok_result(pte_write(where, 0), 0, "and emptied");
    ok(pte_write(where + 3 * 8, 0) < 0, "but not Xen's");
    ok_result(pte_write(where + 4 * 8, l2), -EINVAL, "and a fifth entry there is not");
    pin(va_mfn(other), 4);
    ok_result(unpin(va_mfn(other)), -EINVAL, "PIN_L4_TABLE pins nothing");
    return 0;
}
