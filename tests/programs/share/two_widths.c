// cowbird: description = a 64-bit and a 32-bit domain share pages of equal contents, and part them again
// cowbird: environments = pv64
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
// cowbird: width.first = 64
// cowbird: width.second = 32
/*
 * Contents know no width: whoever comes second gets the frames of the first. A write takes a page
 * away from its own domain alone (design.md, invariant 7).
 */

#include "two_domains.h"

#define PAGES 8

static char *pages[PAGES];

static unsigned int sharing(long want)
{
    unsigned int count = 0;

    for (unsigned int i = 0; i < PAGES; i++)
        count += share(pages[i]) == want;
    return count;
}

static unsigned int right(void)
{
    unsigned int count = 0;

    for (unsigned int i = 0; i < PAGES; i++)
        count += page_check(pages[i], i);
    return count;
}

static unsigned int parted(void)
{
    unsigned int count = 0;

    for (unsigned int i = 0; i < PAGES; i++) {
        count += probe_write(pages[i]) == PF(PF_P | PF_W) && !page_unshare(pages[i]);
        page_fill(pages[i], i); /* as it was, in a frame of its own */
    }
    return count;
}

static void first(void)
{
    ktap_plan(4);
    ok_value(sizeof(long), 8, "64 bits");
    ok_value(sharing(0), PAGES, "the first domain enters its pages");
    tell();
    wait();
    ok_value(right(), PAGES, "what the other does to its own does not show");
    ok_value(parted(), PAGES, "this one's writes fault, and it copies");
    tell();
    wait();
    sharing(1); /* back in: the other has kept the frames alive */
    tell();
}

static void second(void)
{
    ktap_plan(5);
    wait();
    ok_value(sizeof(long), 4, "32 bits");
    ok_value(sharing(1), PAGES, "the second merges all of its pages");
    ok_value(parted(), PAGES, "its writes fault, and it copies");
    ok_value(sharing(1), PAGES, "changed back, they merge again");
    tell();
    wait();
    ok_value(right(), PAGES, "the first has parted; nothing shows here");
    tell();
    wait();
}

int main(void)
{
    for (unsigned int i = 0; i < PAGES; i++)
        pages[i] = filled_page(i);
    meet();
    if (is_first())
        first();
    else
        second();
    return 0;
}
