// cowbird: description = a fault that nobody wants ends the domain with a report
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    ktap_plan(1);
    *(volatile int *)0x1234 = 5;
    return 0;
}
