// cowbird: description = machine memory is used up: a copy gets no frame and says so; the other domain goes on
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
// cowbird: machine-memory = 24M
// cowbird: limit = 60M
/*
 * A shared page does not count as its domain's, so a domain that enters page after page can have
 * more than its reservation. memory_op then does fewer extents, and the guest must live with it.
 */

#include "two_domains.h"

#define AREA ((char *)0x500000000000)

static void first(void)
{
    char *page = filled_page(1);
    unsigned long count = 0;
    long error = 0;
    mfn_t mfn;

    ktap_plan(8);
    share(page);
    while ((mfn = frame_populate(va_pfn(page))) != INVALID_MFN && !error) {
        unsigned long *next = (unsigned long *)(AREA + count * PAGE_SIZE);

        error = pte_map(next, make_pte(mfn, PTE_RW));
        if (!error) {
            *next = ++count;
            error = share(next);
        }
    }
    ok_result(error, 0, "pages are entered until memory is used up");
    diag("%lu pages", count);
    ok(count > 100, "that takes a while");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "a write to a shared page faults");
    ok_result(page_unshare(page), -ENOMEM, "and there is no frame for the copy");
    ok(page_check(page, 1), "the page is as it was");
    tell();
    wait();
    pte_set(AREA, 0);
    ok_result(page_unshare(page), 0, "one page is let go: now there is a frame");
    ok_fault(probe_write(page), NO_FAULT, "and the write is done");
    ok_value(*(unsigned long *)(AREA + PAGE_SIZE), 2, "the others are as they were");
}

static void second(void)
{
    char *page = filled_page(3), *a = filled_page(4), *b = filled_page(4);

    ktap_plan(5);
    wait();
    ok(page_check(page, 3), "the other domain's pages are as they were");
    ok_fault(probe_write(page), NO_FAULT, "and its own");
    ok_result(share(a), 0, "it can share");
    ok_result(share(b), 1, "and a merged page gives a frame back");
    ok_result(page_unshare(b), 0, "which it can have");
    tell();
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
