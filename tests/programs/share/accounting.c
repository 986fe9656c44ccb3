// cowbird: description = what a shared page costs: the reservation falls by one, its M2P entry is gone
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* Step 5 of design.md section 4: the frame is the machine's, not the domain's. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1);
    mfn_t frame_a = va_mfn(a), frame_b = va_mfn(b);
    long pages = reservation();

    ktap_plan(12);
    share(a);
    ok_value(reservation(), pages - 1, "entered: one page less");
    ok_value(m2p[frame_a], ~0UL, "no M2P entry");
    share(b);
    ok_value(reservation(), pages - 2, "merged: one more less");
    ok(m2p[frame_b] != va_pfn(b), "no M2P entry for the old frame");
    share(b);
    ok_value(reservation(), pages - 2, "again: no change");
    ok_result(page_unshare(a), 0, "a new frame for the first");
    ok_value(reservation(), pages - 1, "one page more");
    ok_value(m2p[va_mfn(a)], va_pfn(a), "with an M2P entry");
    ok(may_map(frame_a), "the shared frame is still there, for the second");
    ok_result(page_unshare(b), 0, "and for the second");
    ok_value(reservation(), pages, "all as before");
    ok(!may_map(frame_a), "the shared frame is gone");
    return 0;
}
