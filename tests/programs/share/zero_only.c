// cowbird: description = a machine that shares pages of zeros only: all others are -EPERM
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
// cowbird: zero-only = yes
/* design.md section 4, "what leaks": that a page is zero tells nobody anything. */

#include "share_test.h"

int main(void)
{
    char *a = page_alloc(), *b = page_alloc(), *c = filled_page(1), *d = page_alloc();

    ktap_plan(6);
    ok_result(share(a), 0, "zeros: entered");
    ok_result(share(b), 1, "zeros: merged");
    ok_result(share(c), -EPERM, "anything else: refused");
    ok(pte_get(c) & PTE_W, "and left alone");
    d[PAGE_SIZE - 1] = 1;
    ok_result(share(d), -EPERM, "one byte is enough");
    d[PAGE_SIZE - 1] = 0;
    ok_result(share(d), 1, "without it: merged");
    return 0;
}
