// cowbird: description = make_ro_and_share: a CPU set that cannot be read, and nothing changes
// cowbird: environments = pv64
//
// flags are UVMF_* as update_va_mapping takes them: above the low two bits they may point at a set
// of CPUs. The pointer is a claim like any other (design.md section 4: an errno changes nothing).
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();
    unsigned long va = (unsigned long)page, before = pte_get(va), set = 1;

    ktap_plan(5);
    ok_result(HYPERVISOR_make_ro_and_share(va, PTE_AVL0, 0x40000000 | UVMF_INVLPG), -EFAULT,
              "a set that is not mapped");
    ok_value(pte_get(va), before, "the entry is as it was");
    ok_fault(probe_write(page), NO_FAULT, "and writable");
    ok_result(HYPERVISOR_make_ro_and_share(va, PTE_AVL0, (unsigned long)&set | UVMF_INVLPG), 0,
              "a set that can be read");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "read-only now");
    return 0;
}
