// cowbird: description = each error answer of update_va_mapping; a refused update changes nothing
/*
 * Source: xen/arch/x86/mm.c (do_update_va_mapping, map_guest_l1e, mod_l1_entry).
 */
#include "cowbird.h"

static long set(unsigned long va, pte_t entry)
{
    return HYPERVISOR_update_va_mapping(va, entry, UVMF_INVLPG);
}

int main(void)
{
    char *page = page_alloc(), *table = page_alloc();
    const unsigned long va = (unsigned long)page;
    const pte_t good = make_pte(va_mfn(page), PTE_RW);
    pte_t before;

    ktap_plan(13);
    make_table(table, 1);
    before = pte_get(page);
    ok_result(set(AWAY, good), -EINVAL, "no table for the address: L3");
    ok_result(set(VIRT_BASE + (300UL << 21), good), -EINVAL, "no table for the address: L1");
    ok_result(set(0x0000800000000000, good), -EINVAL, "not canonical");
    ok_result(set(HYPERVISOR_VIRT_START, 0), -EINVAL, "Xen's");
    ok_result(set(HYPERVISOR_VIRT_END - PAGE_SIZE, 0), -EINVAL, "Xen's last page");
    ok_result(set(va, make_pte(va_mfn(table), PTE_RW)), -EBUSY, "a page table, writable");
    ok_result(set(va, make_pte(l4_current(), PTE_RW)), -EBUSY, "the current L4, writable");
    ok_value(pte_get(page), before, "the entry is as it was");
    ok_fault(probe_write(page), NO_FAULT, "and in force");
    ok_result(set(va + 123, good), 0, "the offset in the page does not matter");
    ok_result(HYPERVISOR_update_va_mapping(va, good, UVMF_INVLPG | 0x0000800000000000), -EFAULT,
              "a set of CPUs that cannot be read");
    ok_result(HYPERVISOR_update_va_mapping(va, make_pte(va_mfn(page), PTE_RO), 8 | UVMF_TLB_FLUSH),
              -EFAULT, "another");
    ok_value(pte_get(page) & PTE_W, 0, "the update itself was made: it comes before the flush");
    return 0;
}
