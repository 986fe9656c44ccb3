// cowbird: description = U in a PV guest: Xen sets it, a software bit remembers what was asked
/*
 * Kernel and user both run in ring 3, so the MMU's U bit cannot tell them apart: their address
 * spaces do. Xen sets U in every present entry, and bit 52 (_PAGE_GUEST_KERNEL) where the guest
 * had left it out; an entry that the guest made for its user gets G instead.
 *
 * Source: xen/arch/x86/pv/mm.h (adjust_guest_l1e and its kin).
 */
#include "cowbird.h"

#define GUEST_KERNEL (1UL << 52)

int main(void)
{
    char *const at = (char *)FURTHER_AWAY;
    char *page = page_alloc();
    mfn_t mfn = va_mfn(page);
    const pte_t mask = PTE_U | GUEST_KERNEL | PTE_G;

    ktap_plan(13);
    ok_result(pte_set(page, make_pte(mfn, PTE_RW)), 0, "an entry without U");
    ok_value(pte_get(page) & mask, PTE_U | GUEST_KERNEL, "reads as U, for the kernel");
    ok_result(pte_set(page, make_pte(mfn, PTE_USER_RW)), 0, "with U");
    ok_value(pte_get(page) & mask, PTE_U | PTE_G, "reads as U, global");
    ok_fault(probe_write(page), NO_FAULT, "and is the kernel's as much");
    ok_result(pte_set(page, pte_get(page)), 0, "what was read can be written back");
    ok_result(pte_set(page, make_pte(mfn, PTE_RW)), 0, "without U again");
    ok_value(pte_get(page) & mask, PTE_U | GUEST_KERNEL, "G is gone");
    ok_result(pte_set(page, pte_get(page)), 0, "what was read can be written back");
    ok_value(pte_get(page) & mask, PTE_U | GUEST_KERNEL, "and is the kernel's as before");
    ok_result(user_map(at, make_pte(mfn, PTE_RW)), 0, "without U in the user's address space");
    ok_fault(user_write(at), NO_FAULT, "the user can use it: only address spaces protect");
    ok_value(pte_get_at(user_l4(), at, 2) & PTE_U, PTE_U, "tables get U too");
    return 0;
}
