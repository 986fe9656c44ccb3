// cowbird: description = no verdict is a crash, even of a domain that powers off
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    printf("# nothing to say\n");
    shutdown(SHUTDOWN_poweroff);
}
