// cowbird: description = a domain that does not map a shared frame cannot reach it by guessing its number
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/*
 * design.md section 4, "a second mapping": otherwise guessing MFNs reads other guests' memory. The
 * second domain tries every frame of the machine.
 */

#include "two_domains.h"

static void first(void)
{
    char *page = filled_page(1);

    ktap_plan(2);
    ok_result(share(page), 0, "a page is shared");
    tell();
    wait();
    ok(page_check(page, 1), "and still is what it was");
}

static void second(void)
{
    char *window = window_alloc(), *page = filled_page(1);
    mfn_t frames = (mfn_t)HYPERVISOR_memory_op(XENMEM_maximum_ram_page, NULL);
    unsigned int mapped = 0, wrong = 0;
    mfn_t found;

    ktap_plan(5);
    wait();
    for (mfn_t mfn = 0; mfn < frames; mfn++) {
        if (pte_set(window, make_pte(mfn, PTE_RO)))
            continue;
        mapped++;
        wrong += (m2p[mfn] >= start_info->nr_pages || p2m[m2p[mfn]] != mfn) &&
                 mfn << PAGE_SHIFT != start_info->shared_info;
    }
    pte_set(window, 0);
    ok(mapped > 100, "its own frames can be mapped");
    ok_value(wrong, 0, "and no others");
    ok_result(share(page), 1, "with the same contents it gets there");
    found = va_mfn(page);
    ok_result(pte_set(window, make_pte(found, PTE_RO)), 0, "then it may map it once more");
    pte_set(window, 0);
    pte_set(page, 0);
    ok(!may_map(found), "but not any more when it has let go");
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
