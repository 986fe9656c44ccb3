// cowbird: description = set_gdt and update_descriptor: loads, faults, what Xen refuses
// cowbird: environments = pv64, pv32, xen
/*
 * The guest's descriptors fill entries 0 to 7167 of the GDT; behind them are Xen's. A page of
 * descriptors may not be writable, code and data descriptors get at least the kernel's DPL, gates and system segments
 * are refused (Xen: set_gdt, check_descriptor). Loading a null selector into DS, ES is allowed.
 */

#include "cowbird.h"

#define DATA_DESCRIPTOR UINT64_C(0x00cf92000000ffff) /* DPL 0: becomes the kernel's */
#define TSS_DESCRIPTOR UINT64_C(0x0000890000000067)
#define ABSENT_DESCRIPTOR UINT64_C(0x00cf72000000ffff)

#define RING (FLAT_KERNEL_CS & 3) /* where the kernel runs: 3, or 1 for 32 bits */

static void load_es(void *selector)
{
    __asm__ volatile("mov %0, %%es" : : "r"((uint32_t)(unsigned long)selector));
}

#define ES(selector) catch_fault(load_es, (void *)(selector))

int main(void)
{
    uint64_t *table = page_alloc();
    unsigned long frame = va_mfn(table);
    uint64_t at;

    ktap_plan(17);
    table[1] = DATA_DESCRIPTOR;
    table[2] = ABSENT_DESCRIPTOR;
    ok_result(HYPERVISOR_set_gdt(&frame, 512), -EINVAL, "a writable page is refused");
    pte_protect(table, PTE_RO);
    ok_result(HYPERVISOR_set_gdt(&frame, 7169), -EINVAL, "more entries than there are");
    ok_fault(ES(8), GP(8), "before: no descriptor 1");
    ok_result(HYPERVISOR_set_gdt(&frame, 512), 0, "the GDT is set");
    ok_result(pte_protect(table, PTE_RW), -EBUSY, "its page cannot become writable");
    ok_fault(ES(8), NO_FAULT, "a data segment is loaded");
    ok_fault(ES(8 | 3), RING == 3 ? NO_FAULT : GP(8), "with RPL 3 if that is the kernel's ring");
    ok_value(table[1] >> 40 & 0xff, 0x93 | RING << 5, "it has the ring as DPL and is accessed");
    ok_fault(ES(16), FAULT(TRAP_NP, 16), "an absent one is #NP(selector)");
    ok_fault(ES(24), GP(24), "an empty one is #GP(selector)");
    ok_fault(ES(0), NO_FAULT, "a null selector is loaded");
    at = (uint64_t)frame << PAGE_SHIFT | 24;
    ok_result(HYPERVISOR_update_descriptor(at, TSS_DESCRIPTOR), -EINVAL, "no TSS");
    ok_result(HYPERVISOR_update_descriptor(at | 4, DATA_DESCRIPTOR), -EINVAL, "not misaligned");
    ok_result(HYPERVISOR_update_descriptor(at, DATA_DESCRIPTOR), 0, "entry 3 becomes data");
    ok_fault(ES(24), NO_FAULT, "and is loaded");
    load_es(NULL);
    ok_result(HYPERVISOR_set_gdt(NULL, 0), 0, "the GDT is given back");
    ok_result(pte_protect(table, PTE_RW), 0, "and its page is free again");
    return 0;
}
