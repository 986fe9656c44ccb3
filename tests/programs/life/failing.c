// cowbird: description = a check that fails does not end the program, and the verdict is FAIL
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = FAIL

#include "cowbird.h"

int main(void)
{
    ktap_plan(2);
    ok(false, "this one fails on purpose");
    ok(true, "the next is made all the same");
    return 0;
}
