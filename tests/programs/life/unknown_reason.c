// cowbird: description = a shutdown for a reason that there is not
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH
// cowbird: difference = to the first domain Xen takes an unknown reason for a reboot; what an ordinary domain's means is up to who manages it, and here it is a crash

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    ok(true, "about to shut down for reason 99");
    shutdown(99);
}
