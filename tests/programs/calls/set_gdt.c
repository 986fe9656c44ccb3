// cowbird: description = set_gdt: each error answer
// cowbird: environments = pv64, pv32, xen
/*
 * Up to 14 pages of 512 descriptors; the rest of the window is Xen's. Every descriptor is checked.
 *
 * Source: xen/arch/x86/pv/descriptor-tables.c.
 */
#include "cowbird.h"

#ifdef __x86_64__
#define CODE 0x00af9a000000ffff
#else
#define CODE 0x00cf9a000000ffff
#endif

int main(void)
{
    char *page = page_alloc(), *gone = page_alloc(), *bad = page_alloc();
    unsigned long frames[14];
    unsigned long free = va_mfn(gone);

    ktap_plan(13);
    page_release(gone);
    pte_protect(page, PTE_RO);
    for (unsigned int i = 0; i < ARRAY_SIZE(frames); i++)
        frames[i] = va_mfn(page);
    ok_result(HYPERVISOR_set_gdt(frames, FIRST_RESERVED_GDT_ENTRY + 1), -EINVAL, "too many entries");
    ok_result(HYPERVISOR_set_gdt((void *)BAD_ADDRESS, 1), -EFAULT, "a bad list");
    ok_result(HYPERVISOR_set_gdt(&free, 1), -EINVAL, "a free frame");
    frames[0] = INVALID_MFN;
    ok_result(HYPERVISOR_set_gdt(frames, 1), -EINVAL, "no such frame");
    frames[0] = l4_current();
    ok_result(HYPERVISOR_set_gdt(frames, 1), -EINVAL, "a page table");
    ((uint64_t *)bad)[1] = CODE; /* DPL 0 */
    ((uint64_t *)bad)[2] = 0x0000890000000067; /* a TSS: no guest's business */
    pte_protect(bad, PTE_RO);
    frames[0] = va_mfn(bad);
    ok_result(HYPERVISOR_set_gdt(frames, 512), -EINVAL, "a system descriptor in it");
    pte_protect(bad, PTE_RW);
    ((uint64_t *)bad)[2] = 0;
    pte_protect(bad, PTE_RO);
    ok_result(HYPERVISOR_set_gdt(frames, 512), 0, "without it");
    ok_value(((uint64_t *)bad)[1] >> 45 & 3, FLAT_KERNEL_CS & 3,
             "Xen has raised the DPL to the kernel's ring");
    ok_result(HYPERVISOR_set_gdt(frames, 1), 0, "one entry");
    ok_result(pte_protect(bad, PTE_RW), -EBUSY, "takes the whole page");
    frames[0] = va_mfn(page);
    ok_result(HYPERVISOR_set_gdt(frames, FIRST_RESERVED_GDT_ENTRY), 0, "one page 14 times");
    ok_result(pte_protect(bad, PTE_RW), 0, "the old one is free");
    ok_result(HYPERVISOR_set_gdt(NULL, 0), 0, "none");
    return 0;
}
