// cowbird: description = fork by sharing: an L1 is shared by a batch, copied into a second table, both let go
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * What fork.asm does at length: the child's table maps the parent's shared frames once more, and
 * each side copies what it writes. Counts come out right, whoever goes first.
 */

#include "share_test.h"

#define PAGES 16

static char *const at = (char *)FURTHER_AWAY;

int main(void)
{
    static struct share_req reqs[PAGES];
    pte_t *parent = page_alloc(), *child = page_alloc();
    unsigned int done, entered = 0;
    mfn_t first;
    bool same = true;

    ktap_plan(12);
    for (unsigned int i = 0; i < PAGES; i++) {
        char *page = filled_page(i);

        parent[i] = make_pte(va_mfn(page), PTE_RW);
        pte_set(page, 0);
    }
    first = pte_mfn(parent[0]);
    ok_result(make_table(parent, 1), 0, "the parent's table");
    for (unsigned int i = 0; i < PAGES; i++)
        reqs[i].ptr = (va_mfn(parent) << PAGE_SHIFT) + 8 * i;
    ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, PAGES, &done, PTE_AVL1), 0, "is shared");
    for (unsigned int i = 0; i < PAGES; i++) {
        entered += reqs[i].status == 0;
        child[i] = parent[i];
    }
    ok_value(entered, PAGES, "all pages are entered");
    ok_result(make_table(child, 1), 0, "the child's table maps the same frames");
    for (unsigned int i = 0; i < PAGES; i++)
        same &= pte_mfn(child[i]) == pte_mfn(parent[i]) && !(child[i] & PTE_W);
    ok(same, "read-only");
    pte_map_at(l4_current(), at, 0); /* makes the tables above */
    ok_result(pte_write(pte_maddr_at(l4_current(), at, 2), make_pte(va_mfn(child), PTE_TABLE)), 0,
              "the child's table goes into the address space");
    ok_fault(probe_write(at), PF(PF_P | PF_W), "a write faults");
    ok(page_check(at, 0), "a read shows the parent's page");
    ok_result(unmake_table(parent), 0, "the parent's table goes");
    ok(may_map(first), "the frames stay for the child");
    ok_result(pte_set(at, 0), 0, "the child lets go of the first");
    ok(!may_map(first), "and that frame is gone");
    return 0;
}
