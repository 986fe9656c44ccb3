// cowbird: description = the hypervisor's own accesses to guest memory set A and D like the MMU's
// cowbird: environments = pv64, pv32, xen
/*
 * Xen reads arguments and writes results through the guest's own page tables. An update of an
 * entry goes another way and touches no mapping.
 *
 * Source: xen/arch/x86/usercopy.c (copy_to_user and its kin run on the guest's tables).
 */
#include "cowbird.h"

#define AD (PTE_A | PTE_D)

static void fresh(char *page, pte_t flags)
{
    pte_set(page, make_pte(va_mfn(page), flags));
}

int main(void)
{
    char *page = page_alloc(), *other = page_alloc(), *table = page_alloc();
    struct mmu_update *update = (struct mmu_update *)page;
    unsigned int *done = (unsigned int *)other;

    ktap_plan(10);
    update->ptr = pte_maddr(page);
    fresh(page, PTE_P | PTE_W);
    update->val = pte_get(page);
    update->ptr = pte_maddr(other);
    update->val = make_pte(va_mfn(other), PTE_P | PTE_W);
    fresh(page, PTE_P | PTE_W);
    ok_result(HYPERVISOR_mmu_update(update, 1, done, DOMID_SELF), 0, "an update from a page");
    ok_value(pte_get(page) & AD, PTE_A, "it was read: A");
    ok_value(pte_get(other) & AD, AD, "its count was written: A and D");
    ok_value(*done, 1, "one done");

    fresh(other, PTE_P);
    ok_result(HYPERVISOR_xen_version(XENVER_extraversion, other), -EFAULT,
              "the hypervisor writes no read-only page");
    ok_value(pte_get(other) & PTE_D, 0, "no D");
    ok_value(*done, 1, "what it held is still there");

    ok_result(make_table(table, 1), 0, "a table");
    fresh(table, PTE_P);
    ok_result(pte_write(va_mfn(table) << PAGE_SHIFT, 0x55 << 1), 0, "is written by hypercall");
    ok_value(pte_get(table) & AD, 0, "its own mapping was not used");
    return 0;
}
