// cowbird: description = make_ro_and_share: enter, merge, fault, unshare, batch
// cowbird: oracle = no: needs make_ro_and_share

#include "cowbird.h"

int main(void)
{
    char *a = page_alloc(), *b = page_alloc(), *c = page_alloc();
    struct share_req reqs[2];
    unsigned int done = 0;

    if (!have_share())
        skip_all("this hypervisor has no make_ro_and_share");
    ktap_plan(14);
    page_fill(a, 1);
    page_fill(b, 1);
    page_fill(c, 1);
    ok_result(HYPERVISOR_make_ro_and_share((unsigned long)a, PTE_AVL0, UVMF_INVLPG), 0, "entered");
    ok_result(HYPERVISOR_make_ro_and_share((unsigned long)b, PTE_AVL0, UVMF_INVLPG), 1, "merged");
    ok_value(va_mfn(a), va_mfn(b), "one frame");
    ok_value(pte_get(a) & (PTE_W | PTE_AVL), PTE_AVL0, "read-only, marked");
    ok_fault(probe_write(b), PF(PF_P | PF_W), "a write faults");
    ok_result(page_unshare(b), 0, "the page gets its own frame again");
    ok(va_mfn(a) != va_mfn(b) && page_check(b, 1), "with the same contents");
    ok_fault(probe_write(b), NO_FAULT, "and is written");
    ok(page_check(a, 1) && !page_check(b, 1), "alone");

    reqs[0] = (struct share_req){.ptr = pte_maddr(c)};
    reqs[1] = (struct share_req){.ptr = 12};
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 2, &done, 0), 1, "a batch with one failure");
    ok_value(done, 2, "all were dealt with");
    ok_result(reqs[0].status, 1, "merged");
    ok_result(reqs[1].status, -EINVAL, "refused");
    ok_value(va_mfn(c), va_mfn(a), "one frame");
    return 0;
}
