// cowbird: description = the batch's own errors: -EINVAL, -E2BIG, -EFAULT half-way
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * -EINVAL for AVL bits, -E2BIG for more than 65,536 requests, -EFAULT where the array or *done
 * cannot be read and written; what was dealt with before stays done, and *done says so.
 */

#include "share_test.h"

int main(void)
{
    char *page = filled_page(1), *b = filled_page(1);
    struct share_req *reqs = page_alloc(), *last;
    unsigned int done = 7;
    void *gap;

    ktap_plan(15);
    reqs[0] = (struct share_req){.ptr = pte_maddr(page), .status = 9};
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 1, &done, PTE_W), -EINVAL, "avl with W");
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 65537, &done, 0), -E2BIG, "too many");
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, ~0U, &done, 0), -E2BIG, "far too many");
    ok_value(reqs[0].status, 9, "no status was written");
    ok_result(HYPERVISOR_make_ro_and_share_batch((void *)0x5000, 1, &done, 0), -EFAULT, "no array");
    ok_value(done, 0, "none dealt with");
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 1, NULL, 0), -EFAULT, "no counter");
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 1, (void *)MACH2PHYS_VIRT_START, 0), -EFAULT,
              "a counter in Xen's range");
    pte_protect(reqs, PTE_RO);
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 1, &done, 0), -EFAULT, "a read-only array");
    pte_protect(reqs, PTE_RW);
    ok(pte_get(page) & PTE_W, "nothing was shared");

    /* An array whose second page is absent. */
    gap = page_alloc();
    if ((char *)gap != (char *)reqs + PAGE_SIZE)
        bail("pages are not one behind the other");
    pte_set(gap, 0);
    last = reqs + PAGE_SIZE / sizeof(*reqs) - 1;
    for (struct share_req *r = reqs; r <= last; r++)
        *r = (struct share_req){.ptr = pte_maddr(page)};
    last->ptr = pte_maddr(b);
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 300, &done, 0), -EFAULT, "half of it absent");
    ok_value(done, 256, "the first page of requests is dealt with");
    ok_result(reqs[0].status, 0, "entered");
    ok_result(last->status, 1, "merged");
    ok_value(va_mfn(page), va_mfn(b), "and it stays so");
    return 0;
}
