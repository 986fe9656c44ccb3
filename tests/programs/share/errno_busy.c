// cowbird: description = -EBUSY of make_ro_and_share: tables, descriptors, pins, second mappings
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: a page table or descriptor page, or any reference besides this entry. */

#include "share_test.h"

int main(void)
{
    char *table = page_alloc(), *gdt = page_alloc(), *twice = filled_page(1), *window = window_alloc();
    unsigned long frame = va_mfn(gdt);

    ktap_plan(16);
    ok_result(make_table(table, 1), 0, "a pinned L1");
    ok_result(share(table), -EBUSY, "is refused");
    ok_result(share((void *)start_info->pt_base), -EBUSY, "so is the L4 in use");
    unmake_table(table);
    ok_result(share(table), 0, "unpinned and zeroed it is not");

    pte_protect(gdt, PTE_RO);
    ok_result(HYPERVISOR_set_gdt(&frame, 512), 0, "a GDT");
    ok_result(share(gdt), -EBUSY, "is refused");
    HYPERVISOR_set_gdt(NULL, 0);
    ok_result(share(gdt), 1, "given back it is merged with the other page of zeros");

    ok_result(pte_set(window, make_pte(va_mfn(twice), PTE_RO)), 0, "a second mapping, read-only");
    ok_result(share(twice), -EBUSY, "refused");
    ok(pte_get(twice) & PTE_W, "and the entry is as it was");
    pte_set(window, make_pte(va_mfn(twice), PTE_RW));
    ok_result(share(twice), -EBUSY, "writable: refused");
    ok_result(share(window), -EBUSY, "by either mapping");
    pte_set(window, 0);
    ok_result(share(twice), 0, "with one mapping it is shared");

    ok_result(share((void *)start_info->mfn_list), 0, "the P2M is a page like any other");
    ok_result(page_check(twice, 1) ? 0 : -1, 0, "contents are what they were");
    ok_value(pte_get(twice) & PTE_W, 0, "and read-only");
    return 0;
}
