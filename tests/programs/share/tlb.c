// cowbird: description = a writable translation in the TLB does not outlive the share, flags or not
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * Step 3 of design.md section 4: flush before the contents are read, whatever UVMF_* says. The page
 * is written just before the call, so that its writable translation is in the TLB.
 */

#include "share_test.h"

int main(void)
{
    static const unsigned long flags[] = {0, UVMF_INVLPG, UVMF_TLB_FLUSH, UVMF_INVLPG | UVMF_ALL};

    ktap_plan(4 * 3 + 3);
    for (unsigned int i = 0; i < 4; i++) {
        volatile uint64_t *a = filled_page(i), *b = filled_page(i);

        a[0] = a[0];
        b[0] = b[0];
        HYPERVISOR_make_ro_and_share((unsigned long)a, 0, flags[i]);
        ok_fault(probe_write(a), PF(PF_P | PF_W), "flags %#lx: a write after it faults", flags[i]);
        HYPERVISOR_make_ro_and_share((unsigned long)b, 0, flags[i]);
        ok_fault(probe_write(b), PF(PF_P | PF_W), "merged: too");
        ok_result(page_unshare((void *)a) ? -1 : probe_write(a) == NO_FAULT ? 0 : -2, 0,
                  "and the new page shows through at once");
    }
    {
        char *a = filled_page(9), *b = filled_page(9);
        struct share_req reqs[2] = {{.ptr = pte_maddr(a)}, {.ptr = pte_maddr(b)}};
        unsigned int done;

        *(volatile char *)a = *a;
        *(volatile char *)b = *b;
        ok_result(HYPERVISOR_make_ro_and_share_batch(reqs, 2, &done, 0), 0, "a batch");
        ok_fault(probe_write(a), PF(PF_P | PF_W), "a write to its first page faults");
        ok_fault(probe_write(b), PF(PF_P | PF_W), "to its second too");
    }
    return 0;
}
