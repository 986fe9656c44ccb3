// cowbird: description = arguments of mmuext_op: count 0, done, domains, pointers, a failing request
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen/arch/x86/mm.c (do_mmuext_op).
 */
#include "cowbird.h"

#define NOWHERE ((void *)0x0000800000000000)

int main(void)
{
    char *page = page_alloc();
    const mfn_t mfn = va_mfn(page);
    unsigned int done = 99;
    struct mmuext_op ops[3] = {
        {.cmd = MMUEXT_PIN_L1_TABLE, .arg1.mfn = mfn},
        {.cmd = MMUEXT_PIN_L2_TABLE, .arg1.mfn = mfn},
        {.cmd = MMUEXT_UNPIN_TABLE, .arg1.mfn = mfn},
    };

    pte_protect(page, PTE_RO);
    ktap_plan(14);
    ok_result(HYPERVISOR_mmuext_op(ops, 0, &done, DOMID_SELF), 0, "no operations");
    ok_value(done, 0, "none done");
    ok_result(HYPERVISOR_mmuext_op(ops, 3, &done, DOMID_SELF), -EINVAL, "the second fails");
    ok_value(done, 1, "one was done");
    ok_result(unpin(mfn), 0, "the first; not the third");
    ops[1] = ops[2];
    ok_result(HYPERVISOR_mmuext_op(ops, 2, &done, DOMID_SELF), 0, "pin and unpin");
    ok_value(done, 2, "both");
    ok_result(HYPERVISOR_mmuext_op(ops, 1, &done, 1234), -ESRCH, "no such domain");
    ok_result(HYPERVISOR_mmuext_op(ops, 1, &done, DOMID_INVALID), -ESRCH, "DOMID_INVALID");
    ok_result(HYPERVISOR_mmuext_op(NOWHERE, 1, &done, DOMID_SELF), -EFAULT, "a bad pointer");
    ok_result(HYPERVISOR_mmuext_op(window_alloc(), 1, &done, DOMID_SELF), -EFAULT, "nothing mapped");
    ok_result(HYPERVISOR_mmuext_op(ops, 1, NOWHERE, DOMID_SELF), 0, "done cannot be written");
    ok_result(unpin(mfn), 0, "the operation was dealt with");
    ok_result(unpin(mfn), -EINVAL, "nothing was pinned by all that");
    return 0;
}
