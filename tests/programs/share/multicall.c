// cowbird: description = both calls inside a multicall, with other calls between
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1), *c = filled_page(1);
    struct share_req request = {.ptr = pte_maddr(c)};
    unsigned int done = 0;
    struct multicall_entry calls[] = {
        {.op = __HYPERVISOR_make_ro_and_share, .args = {(unsigned long)a, PTE_AVL0, UVMF_INVLPG}},
        {.op = __HYPERVISOR_make_ro_and_share, .args = {(unsigned long)b, PTE_AVL1, UVMF_INVLPG}},
        {.op = __HYPERVISOR_make_ro_and_share, .args = {5}},
        {.op = __HYPERVISOR_make_ro_and_share_batch,
         .args = {(unsigned long)&request, 1, (unsigned long)&done, PTE_AVL2}},
        {.op = __HYPERVISOR_update_va_mapping, .args = {(unsigned long)a, 0, UVMF_INVLPG}},
    };

    ktap_plan(9);
    ok_result(HYPERVISOR_multicall(calls, ARRAY_SIZE(calls)), 0, "five calls in one");
    ok_result(calls[0].result, 0, "entered");
    ok_result(calls[1].result, 1, "merged");
    ok_result(calls[2].result, -EINVAL, "refused");
    ok_result(calls[3].result, 0, "a batch without failures");
    ok(done == 1 && request.status == 1, "its page is merged");
    ok_result(calls[4].result, 0, "the first mapping is overwritten");
    ok_value(va_mfn(b), va_mfn(c), "the others share a frame");
    ok((pte_get(b) & PTE_AVL) == PTE_AVL1 && (pte_get(c) & PTE_AVL) == PTE_AVL2, "each with its mark");
    return 0;
}
