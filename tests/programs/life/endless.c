// cowbird: description = a program that does not end is stopped at its limit of instructions
// cowbird: environments = pv64, pv32
// cowbird: expected = TIMEOUT
// cowbird: limit = 500K
// cowbird: oracle = no: the real Xen has no limit but the host's patience

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    for (;;)
        __asm__ volatile("pause");
}
