// cowbird: description = AVL bits: set as asked, others cleared, also on an entry that is shared already
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: avl is what bits 9-11 of the entry are afterwards, the guest's own mark. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1);

    ktap_plan(9);
    pte_set(a, pte_get(a) | PTE_AVL2);
    ok_result(HYPERVISOR_make_ro_and_share((unsigned long)a, PTE_AVL0 | PTE_AVL1, 0), 0, "9 and 10");
    ok_value(pte_get(a) & PTE_AVL, PTE_AVL0 | PTE_AVL1, "are set, 11 is not any more");
    ok_result(HYPERVISOR_make_ro_and_share((unsigned long)b, PTE_AVL2, 0), 1, "11, of a merged page");
    ok_value(pte_get(b) & PTE_AVL, PTE_AVL2, "is set");
    ok_value(pte_get(a) & PTE_AVL, PTE_AVL0 | PTE_AVL1, "each entry has its own");
    ok_result(HYPERVISOR_make_ro_and_share((unsigned long)a, PTE_AVL2, 0), 1, "asked again");
    ok_value(pte_get(a) & PTE_AVL, PTE_AVL2, "they are set again");
    ok_result(pte_set(a, (pte_get(a) & ~PTE_AVL) | PTE_AVL0), 0, "the guest may change them");
    ok_fault(probe_write(a), PF(PF_P | PF_W), "which gives no rights");
    return 0;
}
