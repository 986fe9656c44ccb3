// cowbird: description = a domain ends while another maps the same frames: they stay until the last goes
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/* design.md section 4: destroying a domain drops its mappings' counts like any other way. */

#include "two_domains.h"

static void first(void)
{
    char *both = filled_page(1), *others = filled_page(2);
    mfn_t frame;

    ktap_plan(7);
    ok_result(share(both), 0, "a page that the other will merge");
    frame = va_mfn(both);
    tell();
    wait_for_end();
    ok(page_check(both, 1), "the other has ended: the page is there");
    ok_fault(probe_write(both), PF(PF_P | PF_W), "still read-only");
    ok(may_map(frame), "still shared");
    ok_result(share(others), 0, "what only the other had is new again");
    ok_result(page_unshare(both), 0, "a copy");
    ok(!may_map(frame), "and the frame is gone");
}

static void second(void)
{
    char *both = filled_page(1), *own = filled_page(2);

    ktap_plan(2);
    wait();
    ok_result(share(both), 1, "merged with the first domain's");
    ok_result(share(own), 0, "and one of its own");
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
