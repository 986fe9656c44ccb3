// cowbird: description = writes to a shared page by user mode and by Xen on the guest's behalf
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * The entry is really read-only: error code 7 from user mode, 3 from the kernel, -EFAULT for a
 * hypercall that has to write there. The AVL bits in the entry tell the handler what it is.
 */

#include "share_test.h"

int main(void)
{
    char *const at = (char *)0x700000000000;
    char *page = filled_page(1);
    struct xen_feature_info *info = (void *)page;
    long error;

    ktap_plan(9);
    error = user_map(at, make_pte(va_mfn(page), PTE_USER_RW));
    ok_result(error, 0, "a page in the user's address space");
    pte_set(page, 0);
    ok_fault(user_write(at), NO_FAULT, "is writable");
    error = 0;
    {
        struct share_req request = {.ptr = pte_maddr_at(user_l4(), at, 1)};
        unsigned int done = 0;

        ok_result(HYPERVISOR_make_ro_and_share_batch(&request, 1, &done, PTE_AVL1), 0, "shared");
        ok_result(request.status, 0, "entered");
    }
    ok_fault(user_write(at), PF(PF_P | PF_W | PF_U), "a write by the user: error code 7");
    ok_value(pte_get_at(user_l4(), at, 1) & (PTE_W | PTE_AVL), PTE_AVL1, "the mark is in the entry");
    ok_fault(user_read(at), NO_FAULT, "a read is allowed");

    page = filled_page(2);
    info = (void *)page;
    info->submap_idx = 0;
    share(page);
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, info), -EFAULT, "Xen does not write there");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "and the kernel's write: error code 3");
    return 0;
}
