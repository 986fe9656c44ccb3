// cowbird: description = pages of zeros: one frame for all of them
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share

#include "share_test.h"

int main(void)
{
    char *pages[8];
    unsigned int merged = 0, same = 0;
    bool zero = true;
    long before;

    for (unsigned int i = 0; i < 8; i++)
        pages[i] = page_alloc();
    before = reservation();
    ktap_plan(7);
    ok_result(share(pages[0]), 0, "the first is entered");
    for (unsigned int i = 1; i < 8; i++)
        merged += share(pages[i]) == 1;
    ok_value(merged, 7, "all others are merged");
    for (unsigned int i = 0; i < 8; i++)
        same += va_mfn(pages[i]) == va_mfn(pages[0]);
    ok_value(same, 8, "into one frame");
    ok_value(reservation(), before - 8, "eight pages less");
    for (unsigned int i = 0; i < PAGE_SIZE; i++)
        zero &= !pages[7][i];
    ok(zero, "it reads as zeros");
    ok_result(page_unshare(pages[3]), 0, "one is copied");
    pages[3][9] = 1;
    ok(pages[3][9] == 1 && !pages[2][9], "and written alone");
    return 0;
}
