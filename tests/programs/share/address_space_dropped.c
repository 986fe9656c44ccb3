// cowbird: description = leaving an unpinned address space, and a user's, drops what its tables share
// cowbird: oracle = no: needs make_ro_and_share
/* MMUEXT_NEW_BASEPTR and NEW_USER_BASEPTR give the old table's reference back: it may be the last. */

#include "share_test.h"

static char *const at = (char *)FURTHER_AWAY;

static long share_in(mfn_t l4)
{
    struct share_req request = {.ptr = pte_maddr_at(l4, at, 1)};
    unsigned int done;

    if (HYPERVISOR_make_ro_and_share_batch(&request, 1, &done, 0) < 0)
        return -EFAULT;
    return request.status;
}

int main(void)
{
    mfn_t home = l4_current(), other = l4_new(), users = user_l4_new(), frame;
    char *page = filled_page(1);

    ktap_plan(11);
    frame = va_mfn(page);
    pte_map_at(other, at, make_pte(frame, PTE_RW));
    pte_set(page, 0);
    ok_result(share_in(other), 0, "a page of a second address space is shared");
    ok_result(l4_load(other), 0, "which is then loaded");
    ok(page_check(at, 1), "the page is there");
    ok_fault(probe_write(at), PF(PF_P | PF_W), "read-only");
    ok_result(unpin(other), 0, "unpinned: only the base pointer keeps it");
    ok(may_map(frame), "the frame is still there");
    ok_result(l4_load(home), 0, "back to the first");
    ok(!may_map(frame), "and the frame is gone");

    user_l4_load(users);
    page = filled_page(2);
    frame = va_mfn(page);
    pte_map_at(users, at, make_pte(frame, PTE_USER_RW));
    pte_set(page, 0);
    ok_result(share_in(users), 0, "a page of a user's address space");
    unpin(users);
    ok_result(user_l4_load(user_l4_new()), 0, "another one is loaded");
    ok(!may_map(frame), "the frame is gone");
    return 0;
}
