// cowbird: description = domains in different sharing groups: equal pages are not merged
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
// cowbird: groups = 2
/* design.md section 4, "what leaks": a group's members learn nothing about other groups. */

#include "two_domains.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1), *zero = page_alloc();

    meet();
    ktap_plan(5);
    if (!is_first())
        wait();
    ok_result(share(a), 0, "entered, by each of the two");
    ok_result(share(b), 1, "merged within the group");
    ok_value(va_mfn(a), va_mfn(b), "one frame");
    ok_result(share(zero), 0, "zeros too are each group's own");
    tell();
    if (is_first())
        wait();
    ok(page_check(a, 1) && page_check(b, 1), "contents are what they were");
    return 0;
}
