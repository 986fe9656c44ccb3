// cowbird: description = the batch: statuses, done, failures in the middle, the same entry twice, no entries
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: a failing entry does not stop the batch; the result counts the failures. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1), *c = filled_page(2), *none = window_alloc();
    unsigned int done = 77;
    struct share_req reqs[8] = {
        {.ptr = pte_maddr(a), .pad = 5},
        {.ptr = pte_maddr(b) | 4},
        {.ptr = pte_maddr(b)},
        {.ptr = va_mfn(c) << PAGE_SHIFT},
        {.ptr = pte_maddr(none)},
        {.ptr = pte_maddr(a)},
        {.ptr = ~7UL},
        {.ptr = pte_maddr(shared_info)},
    };

    ktap_plan(15);
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 8, &done, PTE_AVL0), 5, "five fail");
    ok_value(done, 8, "eight are dealt with");
    ok_result(reqs[0].status, 0, "entered");
    ok_result(reqs[1].status, -EINVAL, "not 8-byte aligned");
    ok_result(reqs[2].status, 1, "merged, behind a failure");
    ok_result(reqs[3].status, -EINVAL, "not in a page table");
    ok_result(reqs[4].status, -EINVAL, "nothing mapped");
    ok_result(reqs[5].status, 1, "the same entry again");
    ok_result(reqs[6].status, -EINVAL, "no such frame");
    ok_result(reqs[7].status, -EPERM, "a frame of Xen's");
    ok_value(reqs[0].pad, 5, "pad is left alone");
    ok_value(va_mfn(a), va_mfn(b), "one frame");
    ok_value(pte_get(b) & (PTE_W | PTE_AVL), PTE_AVL0, "read-only, marked");
    ok_result(HYPERVISOR_make_ro_and_share_batch(NULL, 0, &done, 0), 0, "an empty batch");
    ok_value(done, 0, "deals with none");
    return 0;
}
