// cowbird: description = a shared frame mapped once more by the domain that maps it: read-only
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4, "a second mapping": fork inside a guest. It counts like the first. */

#include "share_test.h"

int main(void)
{
    char *page = filled_page(1), *window = window_alloc();
    mfn_t frame = va_mfn(page);
    long pages;

    ktap_plan(11);
    share(page);
    pages = reservation();
    ok_result(pte_set(window, make_pte(frame, PTE_RW)), -EBUSY, "writable: refused");
    ok_value(pte_get(window), 0, "and nothing is mapped");
    ok_result(pte_write(pte_maddr(window), make_pte(frame, PTE_RW)), -EBUSY, "by mmu_update too");
    ok_result(pte_set(window, make_pte(frame, PTE_RO)), 0, "read-only: allowed");
    ok_value(reservation(), pages, "it costs no page");
    ok(page_check(window, 1), "it shows the same contents");
    ok_result(pte_protect(window, PTE_RW), -EBUSY, "it cannot become writable later");
    ok_result(share(window), 1, "sharing it says that it is shared");
    ok_result(page_unshare(page), 0, "the first mapping gets a frame of its own");
    ok_value(va_mfn(window), frame, "the second has the shared one still");
    ok(page_check(window, 1), "with the contents");
    return 0;
}
