// cowbird: description = all contents collide in the hash: pages are merged by their bytes all the same
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
// cowbird: hash-bits = 0
/*
 * With 0 bits of hash every page has the same key. Contents are always compared (design.md, section
 * 2: equality is decided by comparing bytes); a key has room for 8 frames, then -EBUSY.
 */

#include "share_test.h"

int main(void)
{
    char *pages[12], *twin = filled_page(3);
    unsigned int entered = 0, busy = 0;
    bool right = true, separate = true;

    ktap_plan(7);
    for (unsigned int i = 0; i < 12; i++) {
        long result;

        pages[i] = filled_page(i);
        result = share(pages[i]);
        entered += result == 0;
        busy += result == -EBUSY;
    }
    ok_value(entered, 8, "eight different pages are entered");
    ok_value(busy, 4, "then the key is full");
    for (unsigned int i = 0; i < 12; i++) {
        right &= page_check(pages[i], i);
        for (unsigned int j = 0; j < i; j++)
            separate &= va_mfn(pages[i]) != va_mfn(pages[j]);
    }
    ok(right, "each has its contents");
    ok(separate, "and its own frame");
    ok_result(share(twin), 1, "an equal page is merged");
    ok_value(va_mfn(twin), va_mfn(pages[3]), "with the right one");
    pte_set(pages[0], 0);
    ok_result(share(pages[11]), 0, "when one goes there is room for another");
    return 0;
}
