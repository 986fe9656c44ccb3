// cowbird: description = the last mapping goes: the frame is freed, scrubbed, and may come back
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: at count 0 the frame leaves the content table and goes back to the heap. */

#include "share_test.h"

int main(void)
{
    char *a, *b, *again;
    mfn_t frame = shared_pair(1, &a, &b);
    bool dirty = false;

    ktap_plan(8);
    ok_result(pte_set(a, 0), 0, "the first mapping goes");
    ok(may_map(frame), "the second keeps the frame");
    ok(page_check(b, 1), "and its contents");
    ok_result(pte_set(b, 0), 0, "the second goes");
    ok(!may_map(frame), "the frame is free");
    again = filled_page(1);
    ok_result(share(again), 0, "its contents are new again: entered, not merged");
    /* Not by page_populate(), which clears what it gets. */
    pte_set(a, make_pte(new_frame(a), PTE_RW));
    pte_set(b, make_pte(new_frame(b), PTE_RW));
    for (unsigned int i = 0; i < PAGE_SIZE; i++)
        dirty |= a[i] || b[i];
    ok(!dirty, "frames from Xen are zeroed");
    ok(page_check(again, 1), "contents are right");
    return 0;
}
