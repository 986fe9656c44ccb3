// cowbird: description = -EINVAL of make_ro_and_share: addresses, AVL bits, nothing mapped
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4, first row of the answer table; nothing is changed by a refused call. */

#include "share_test.h"

static long call(const volatile void *va, unsigned long avl)
{
    return HYPERVISOR_make_ro_and_share((unsigned long)va, avl, UVMF_INVLPG);
}

int main(void)
{
    char *page = filled_page(1);
    pte_t before = pte_get(page);

    ktap_plan(13);
    ok_result(call(page + 1, 0), -EINVAL, "a misaligned address");
    ok_result(call(page + 2048, 0), -EINVAL, "or one in the middle");
    ok_result(call((void *)BAD_ADDRESS, 0), -EINVAL, "one that nobody can use");
    ok_result(call((void *)AWAY, 0), -EINVAL, "one without tables");
    ok_result(call(window_alloc(), 0), -EINVAL, "an absent entry");
    ok_result(call((void *)MACH2PHYS_VIRT_START, 0), -EINVAL, "Xen's own range");
    ok_result(call(page, PTE_W), -EINVAL, "AVL bits outside 0xe00: W");
    ok_result(call(page, PTE_AVL0 | PTE_G), -EINVAL, "G, with one that is allowed");
    ok_result(call(page, 0x1000), -EINVAL, "0x1000");
    ok_result(call(page, ~(~0UL >> 1)), -EINVAL, "the highest bit");
    ok_value(pte_get(page), before, "the entry is as it was");
    ok_fault(probe_write(page), NO_FAULT, "and writable");
    ok_value(reservation(), start_info->nr_pages, "no page was lost");
    return 0;
}
