// cowbird: description = update_descriptor: where it may store, and what
// cowbird: environments = pv64, pv32, xen
/*
 * Into a page of descriptors or an ordinary page of the caller's; only what a GDT may hold.
 *
 * Source: xen/arch/x86/pv/descriptor-tables.c.
 */
#include "cowbird.h"

#ifdef __x86_64__
#define CODE UINT64_C(0x00affa000000ffff) /* 64-bit code, DPL 3 */
#else
#define CODE UINT64_C(0x00cffa000000ffff) /* 32-bit code */
#endif
#define TSS UINT64_C(0x0000890000000067)

static uint64_t at(const void *page, unsigned int index)
{
    return (uint64_t)va_mfn(page) << PAGE_SHIFT | index << 3;
}

int main(void)
{
    uint64_t *gdt = page_alloc(), *page = page_alloc(), *table = page_alloc();
    unsigned long frame = va_mfn(gdt);
    const mfn_t l1 = va_mfn(table);

    make_table(table, 1);
    pte_protect(gdt, PTE_RO);
    HYPERVISOR_set_gdt(&frame, 512);
    ktap_plan(12);
    ok_result(HYPERVISOR_update_descriptor(at(gdt, 5), CODE), 0, "into the GDT");
    ok_value(gdt[5], CODE, "is there");
    ok_result(HYPERVISOR_update_descriptor(at(gdt, 5), 0), 0, "an empty one");
    ok_value(gdt[5], 0, "too");
    ok_result(HYPERVISOR_update_descriptor(at(page, 3), CODE), 0, "into an ordinary page");
    ok_value(page[3], CODE, "is there");
    ok_result(HYPERVISOR_update_descriptor(at(gdt, 6), TSS), -EINVAL, "a TSS");
    ok_value(gdt[6], 0, "is not");
    ok_result(HYPERVISOR_update_descriptor(at(gdt, 6) + 4, CODE), -EINVAL, "misaligned");
    ok_result(HYPERVISOR_update_descriptor((uint64_t)l1 << PAGE_SHIFT, CODE), -EINVAL, "into a page table");
    ok_result(HYPERVISOR_update_descriptor(PTE_FRAME, CODE), -EINVAL, "into no frame");
    ok_result(HYPERVISOR_set_gdt(NULL, 0), 0, "no GDT");
    return 0;
}
