// cowbird: description = 5 MiB of console output: the first 4 are kept, and the verdict before them counts
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: QEMU's serial line would take minutes
// cowbird: limit = 60M

#include "cowbird.h"

int main(void)
{
    static char text[4096];

    ktap_plan(2);
    for (unsigned int i = 0; i < sizeof(text); i++)
        text[i] = i % 64 == 63 ? '\n' : '#';
    ok(true, "before the flood");
    ok(true, "all checks are made");
    for (unsigned int i = 0; i < 5 * 256; i++)
        HYPERVISOR_console_io(CONSOLEIO_write, sizeof(text), text);
    return 0;
}
