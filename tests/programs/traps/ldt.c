// cowbird: description = an LDT: loads through it, pages that are not fit, what gives them back
/*
 * MMUEXT_SET_LDT names memory of the guest's. Xen looks at a page of it when a selector in it is
 * used: one that is absent or writable is a #PF at that address; a fit one becomes a descriptor
 * page, until the LDT or the base pointer is another.
 *
 * Source: xen/arch/x86/mm.c (MMUEXT_SET_LDT, new_guest_cr3), pv/mm.c, traps.c.
 */
#include "cowbird.h"

#define DATA_DESCRIPTOR 0x00cf92000000ffffUL /* DPL 0: becomes 3 */
#define ABSENT_DESCRIPTOR 0x00cf72000000ffffUL
#define TSS_DESCRIPTOR 0x0000890000000067UL
#define BASED_DESCRIPTOR 0x12cff2345678ffffUL

static void load_es(void *selector)
{
    __asm__ volatile("mov %0, %%es" : : "r"((uint32_t)(uint64_t)selector));
}

static void load_fs(void *selector)
{
    __asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)(uint64_t)selector));
}

static uint32_t rights(uint32_t selector)
{
    uint32_t value = 0;

    __asm__ volatile("larl %1, %0" : "+r"(value) : "r"(selector) : "cc");
    return value;
}

#define LDT(index) (void *)((index) << 3 | 4UL)
#define ES(index) catch_fault(load_es, LDT(index))

static long set(void *base, unsigned int entries)
{
    return mmuext(MMUEXT_SET_LDT, (unsigned long)base, entries);
}

int main(void)
{
    char *area = (char *)AWAY;
    uint64_t *one = page_alloc(), *two = page_alloc(), *bad = page_alloc();
    mfn_t first = l4_current(), second = l4_new();
    uint16_t ldtr;

    ktap_plan(53);
    one[1] = DATA_DESCRIPTOR;
    one[2] = ABSENT_DESCRIPTOR;
    one[4] = BASED_DESCRIPTOR;
    two[1] = DATA_DESCRIPTOR;
    bad[1] = DATA_DESCRIPTOR;
    bad[2] = TSS_DESCRIPTOR;
    ok_fault(ES(1), GP(12), "there is no LDT");
    ok_result(pte_map(area, make_pte(va_mfn(one), PTE_RW)), 0, "its first page, writable");
    ok_result(set(area, 8193), -EINVAL, "too many entries");
    ok_result(set(area + 8, 1), -EINVAL, "not at a page's start");
    ok_result(set((void *)HYPERVISOR_VIRT_START, 1), -EINVAL, "Xen's memory");
    ok_result(set((void *)0x0000800000000000, 1), -EINVAL, "not canonical");
    ok_result(set(area + 8, 0), 0, "of none any address will do");
    ok_result(set(area, 1500), 0, "1500 entries");
    __asm__ volatile("sldt %0" : "=r"(ldtr));
    ok_value(ldtr, 0xe050, "SLDT shows Xen's selector");
    ok_fault(ES(1), PF(0), "a writable page is no LDT's");
    ok_value(last_fault()->cr2, (unsigned long)area + 8, "CR2 is in the guest's memory");
    ok_result(pte_set(area, make_pte(va_mfn(one), PTE_RO)), 0, "read-only there");
    ok_fault(ES(1), PF(0), "but it is writable elsewhere");
    ok_result(pte_protect(one, PTE_RO), 0, "now it is not");
    ok_fault(ES(1), NO_FAULT, "a data segment is loaded");
    ok_value(one[1] >> 40 & 0xff, 0xf3, "its descriptor has DPL 3 and is marked as accessed");
    ok_value(rights(12) >> 8 & 0xff, 0xf3, "LAR sees it too");
    ok_fault(ES(2), FAULT(TRAP_NP, 20), "an absent one is #NP(selector)");
    ok_fault(ES(3), GP(28), "an empty one is #GP(selector)");
    ok_fault(ES(1500), GP(1500 << 3 | 4), "one beyond the end too");
    ok_fault(ES(600), PF(0), "one on a page that is not mapped is #PF");
    ok_value(last_fault()->cr2, (unsigned long)area + 4800, "at its address");
    ok_fault(catch_fault(load_fs, LDT(4)), NO_FAULT, "FS through it");
    ok_value(one[4] >> 40 & 0xff, 0xf3, "is loaded");
    load_fs(NULL);
    ok_result(pte_protect(one, PTE_RW), -EBUSY, "its page cannot become writable");
    ok_result(pte_map(area + PAGE_SIZE, make_pte(va_mfn(two), PTE_RO)), 0, "the second page");
    ok_result(pte_protect(two, PTE_RO), 0, "read-only");
    ok_fault(ES(512 + 1), NO_FAULT, "a descriptor there");
    ok_result(pte_map(area + 2 * PAGE_SIZE, make_pte(va_mfn(bad), PTE_RO)), 0, "the third page");
    ok_result(pte_protect(bad, PTE_RO), 0, "read-only");
    ok_fault(ES(1024 + 1), PF(0), "has a system segment, and is no LDT's");
    ok_result(pte_protect(bad, PTE_RW), 0, "so it stays the guest's");
    ok_result(HYPERVISOR_update_descriptor((uint64_t)va_mfn(one) << PAGE_SHIFT | 24,
                                           DATA_DESCRIPTOR), 0, "update_descriptor");
    ok_fault(ES(3), NO_FAULT, "of an LDT");
    load_es(NULL);
    ok_result(l4_load(first), 0, "the same base pointer again");
    ok_result(pte_protect(one, PTE_RW), -EBUSY, "gives no page back");
    ok_result(l4_load(second), 0, "another does");
    ok_result(pte_protect(one, PTE_RW), 0, "the page is the guest's");
    ok_result(pte_protect(two, PTE_RW), 0, "and so is the other");
    ok_fault(ES(1), PF(0), "nothing is mapped there now");
    ok_value(last_fault()->cr2, (unsigned long)area + 8, "at the LDT's address");
    ok_result(pte_map_at(second, area, make_pte(va_mfn(two), PTE_RO)), 0, "another page");
    ok_result(pte_protect(two, PTE_RO), 0, "read-only");
    ok_fault(ES(1), NO_FAULT, "is the LDT");
    ok_result(set(area, 1500), 0, "the same LDT again");
    ok_result(pte_protect(two, PTE_RW), -EBUSY, "changes nothing");
    ok_result(set(area, 1501), 0, "a longer one");
    ok_result(pte_protect(two, PTE_RW), 0, "gives the page back");
    ok_result(pte_protect(two, PTE_RO), 0, "read-only again");
    ok_fault(ES(1), NO_FAULT, "and it is the LDT's again");
    load_es(NULL);
    ok_result(set(NULL, 0), 0, "no LDT");
    ok_result(pte_protect(two, PTE_RW), 0, "the page is free");
    ok_fault(ES(1), GP(12), "there is no LDT");
    return 0;
}
