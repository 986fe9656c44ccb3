// cowbird: description = SHUTDOWN_crash is a crash, though every check has passed
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    ok(true, "all is well");
    shutdown(SHUTDOWN_crash);
}
