// cowbird: description = a fault on a stack that is mapped read-only ends the domain
// cowbird: environments = pv64, pv32, xen
// cowbird: expected = CRASH

#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();

    ktap_plan(1);
    if (pte_protect(page, PTE_RO))
        bail("the page cannot be made read-only");
    console_flush();
    __asm__ volatile("mov %0, " STACK_POINTER "; ud2" : : "r"(page + PAGE_SIZE));
    return 0;
}
