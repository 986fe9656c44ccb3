// cowbird: description = SHUTDOWN_reboot ends the domain in peace

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    ok(true, "about to reboot");
    shutdown(SHUTDOWN_reboot);
}
