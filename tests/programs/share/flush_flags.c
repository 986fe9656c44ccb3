// cowbird: description = the flags argument: each kind of UVMF flush, a CPU set that is not there
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * flags are those of update_va_mapping. A pointer to a CPU set that cannot be read is -EFAULT, and
 * unlike there nothing has changed then: a negative answer always means that nothing is shared.
 */

#include "share_test.h"

static long with(void *page, unsigned long flags)
{
    return HYPERVISOR_make_ro_and_share((unsigned long)page, 0, flags);
}

int main(void)
{
    static uint64_t cpus = 1;
    char *page = filled_page(9);

    ktap_plan(8);
    ok_result(with(filled_page(1), UVMF_NONE), 0, "none");
    ok_result(with(filled_page(2), UVMF_TLB_FLUSH | UVMF_LOCAL), 0, "all of the TLB, here");
    ok_result(with(filled_page(3), UVMF_TLB_FLUSH | UVMF_ALL), 0, "on all CPUs");
    ok_result(with(filled_page(4), UVMF_INVLPG | UVMF_ALL), 0, "the page, on all CPUs");
    ok_result(with(filled_page(5), UVMF_INVLPG | (unsigned long)&cpus), 0, "on the CPUs of a set");
    ok_result(with(page, UVMF_INVLPG | 0x5000), -EFAULT, "a set that is not there");
    ok_value(pte_get(page) & PTE_W, PTE_W, "and the page is not shared");
    ok_result(with(page, UVMF_NONE), 0, "as asking again says");
    return 0;
}
