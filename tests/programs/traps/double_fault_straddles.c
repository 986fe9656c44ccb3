// cowbird: description = a bounce frame whose lower half would lie on an absent page ends the domain
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    char *lower = page_alloc(), *upper = page_alloc();

    ktap_plan(1);
    if (upper != lower + PAGE_SIZE || pte_set(lower, 0))
        bail("no two pages in a row");
    console_flush();
    __asm__ volatile("mov %0, " STACK_POINTER "; ud2" : : "r"(upper + 16));
    return 0;
}
