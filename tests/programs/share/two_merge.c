// cowbird: description = two domains share a page: one frame, two contents once one of them writes
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/* design.md, invariant 7: a page reads as what its own domain last wrote there. */

#include "two_domains.h"

static void first(void)
{
    char *page = filled_page(1);

    ktap_plan(4);
    ok_result(share(page), 0, "the first domain enters the page");
    tell();
    wait();
    ok(page_check(page, 1), "the other one's write does not show here");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "and this domain's still faults");
    tell();
    wait();
    ok(page_check(page, 1), "the frame outlives the other's mapping");
    tell();
}

static void second(void)
{
    char *page = filled_page(1);
    long before = reservation();

    ktap_plan(7);
    wait();
    ok_result(share(page), 1, "the second domain merges its own");
    ok_value(reservation(), before - 1, "and has a page less");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "its write faults");
    ok_result(page_unshare(page), 0, "it copies the page");
    page[0] ^= 1;
    ok_value(reservation(), before, "and has its page back");
    tell();
    wait();
    page[0] ^= 1;
    ok_result(share(page), 1, "changed back, it merges again");
    ok_result(pte_set(page, 0), 0, "and lets go of it");
    tell();
    wait();
}

int main(void)
{
    meet();
    if (is_first())
        first();
    else
        second();
    return 0;
}
