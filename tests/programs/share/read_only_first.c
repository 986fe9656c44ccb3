// cowbird: description = a page that is read-only or not executable already is shared as it is
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* Step 3 of design.md section 4 takes W away if it is there; all other rights stay as they were. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1);

    ktap_plan(8);
    pte_protect(a, PTE_RO | PTE_NX);
    pte_protect(b, PTE_RO);
    ok_result(share(a), 0, "read-only, NX: entered");
    ok_result(share(b), 1, "read-only: merged");
    ok_value(va_mfn(a), va_mfn(b), "one frame");
    ok_value(pte_get(a) & (PTE_NX | PTE_W), PTE_NX, "NX stays in the first entry");
    ok_value(pte_get(b) & (PTE_NX | PTE_W), 0, "and is not in the second");
    ok_result(pte_protect(a, PTE_RO), 0, "rights other than W may be changed");
    ok_result(pte_protect(a, PTE_RW), -EBUSY, "W may not");
    ok_fault(probe_write(a), PF(PF_P | PF_W), "a write faults");
    return 0;
}
