// cowbird: description = arguments of mmu_update: count 0, done, domains, pointers, a failing request
// cowbird: environments = pv64, pv32, xen
/*
 * Requests are dealt with in order, and the first that fails ends the call; *done says how many
 * came before it.
 *
 * Source: xen/arch/x86/mm.c (do_mmu_update).
 */
#include "cowbird.h"

#define NOWHERE ((void *)0x0000800000000000)
#define MISSING 1234U

int main(void)
{
    char *page = page_alloc(), *other = page_alloc(), *read_only = page_alloc();
    unsigned int done = 99;
    struct mmu_update reqs[3] = {
        {pte_maddr(page), make_pte(va_mfn(page), PTE_RO)},
        {pte_maddr(other), make_pte(l4_current(), PTE_RW)},
        {pte_maddr(other), make_pte(va_mfn(other), PTE_RO)},
    };

    ktap_plan(20);
    ok_result(HYPERVISOR_mmu_update(reqs, 0, &done, DOMID_SELF), 0, "no requests");
    ok_value(done, 0, "none done");
    ok_result(HYPERVISOR_mmu_update(NULL, 0, NULL, DOMID_SELF), 0, "no requests at NULL");
    ok_result(HYPERVISOR_mmu_update(reqs, 3, &done, DOMID_SELF), -EBUSY, "the second fails");
    ok_value(done, 1, "one was done");
    ok_value(pte_get(page) & PTE_W, 0, "the first");
    ok_value(pte_get(other) & PTE_W, PTE_W, "not the third");
    reqs[0].val = make_pte(va_mfn(page), PTE_RW);
    ok_result(HYPERVISOR_mmu_update(reqs, 1, NULL, DOMID_SELF), 0, "done may be NULL");

    ok_result(HYPERVISOR_mmu_update(reqs, 1, &done, MISSING), -ESRCH, "frames of no domain");
    ok_result(HYPERVISOR_mmu_update(reqs, 1, &done, (MISSING + 1) << 16 | DOMID_SELF), -ESRCH,
              "tables of no domain");
    ok_result(HYPERVISOR_mmu_update(reqs, 1, &done, DOMID_INVALID), -ESRCH, "DOMID_INVALID");
    ok_result(HYPERVISOR_mmu_update(reqs, 1, NULL, (DOMID_SELF + 1U) << 16 | DOMID_SELF), -ESRCH,
              "tables of DOMID_SELF: only 0 means oneself there");
    ok_result(pte_write(reqs[1].ptr, make_pte(va_mfn(other), PTE_RW)), 0, "a writable page");
    reqs[0].val = make_pte(l4_current(), PTE_RO);
    ok_result(HYPERVISOR_mmu_update(reqs, 1, NULL, DOMID_IO), -EBUSY, "DOMID_IO has no memory");
    reqs[0].val = 0;
    ok_result(HYPERVISOR_mmu_update(reqs, 1, NULL, DOMID_IO), 0, "but nothing can be mapped of it");
    pte_set(page, make_pte(p2m[va_pfn(page)], PTE_RW));

    ok_result(HYPERVISOR_mmu_update(NOWHERE, 1, &done, DOMID_SELF), -EFAULT, "a bad pointer");
    ok_result(HYPERVISOR_mmu_update((void *)HYPERVISOR_VIRT_START, 1, &done, DOMID_SELF), -EFAULT,
              "Xen's memory");
    pte_protect(read_only, PTE_RO);
    reqs[0].val = make_pte(va_mfn(page), PTE_RO);
    ok_result(HYPERVISOR_mmu_update(reqs, 1, (unsigned int *)read_only, DOMID_SELF), 0,
              "done cannot be written");
    ok_value(pte_get(page) & PTE_W, 0, "the request was dealt with");
    ok_result(HYPERVISOR_mmu_update(window_alloc(), 1, &done, DOMID_SELF), -EFAULT, "nothing mapped");
    return 0;
}
