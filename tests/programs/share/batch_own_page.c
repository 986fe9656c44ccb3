// cowbird: description = a batch that shares the page of its own request array, or of its counter
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * The answers cannot be written there any more: -EFAULT. What was done stays done: the pages
 * are shared, and the guest finds out by its entries.
 */

#include "share_test.h"

int main(void)
{
    struct share_req *reqs = page_alloc();
    unsigned int *counter = page_alloc(), done = 0;
    char *page = filled_page(1);

    ktap_plan(7);
    reqs[0] = (struct share_req){.ptr = pte_maddr(reqs)};
    reqs[1] = (struct share_req){.ptr = pte_maddr(page)};
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 2, &done, PTE_AVL0), -EFAULT,
              "the array's own page among its requests");
    ok_value(done, 2, "both were dealt with");
    ok_value(pte_get(reqs) & (PTE_W | PTE_AVL), PTE_AVL0, "the array's page is shared");
    ok_value(pte_get(page) & (PTE_W | PTE_AVL), PTE_AVL0, "so is the other");
    page_unshare(reqs);
    reqs[0] = (struct share_req){.ptr = pte_maddr(counter)};
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 1, counter, PTE_AVL0), -EFAULT,
              "the counter's page");
    ok_result(reqs[0].status, 0, "is entered");
    ok_value(pte_get(counter) & (PTE_W | PTE_AVL), PTE_AVL0, "and read-only");
    return 0;
}
