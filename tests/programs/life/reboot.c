// cowbird: description = SHUTDOWN_reboot ends the domain in peace
// cowbird: environments = pv64, pv32, xen

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    ok(true, "about to reboot");
    shutdown(SHUTDOWN_reboot);
}
