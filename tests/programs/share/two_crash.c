// cowbird: description = a domain crashes while it shares: the other goes on with the frames
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
// cowbird: expected = CRASH

#include "two_domains.h"

static void first(void)
{
    char *page = filled_page(1);

    ktap_plan(3);
    tell();
    wait();
    ok_result(share(page), 1, "merged with a page of the other's");
    tell();
    wait_for_end();
    ok(page_check(page, 1), "the other has crashed: the page is there");
    ok_result(page_unshare(page), 0, "and can be copied");
}

static void second(void)
{
    ktap_plan(1);
    wait();
    ok_result(share(filled_page(1)), 0, "entered");
    tell();
    wait();
    console_flush();
    __asm__ volatile("mov %0, " STACK_POINTER "; ud2" : : "r"(0x5000UL));
}

int main(void)
{
    meet();
    if (is_first())
        first();
    else
        second();
    return 0;
}
