// cowbird: description = mmuext_op: what each operation accepts and refuses; unknown ones
// cowbird: environments = pv64, pv32, xen
/*
 * Source: xen.h (MMUEXT_*); xen/arch/x86/mm.c (do_mmuext_op).
 */
#include "cowbird.h"

int main(void)
{
    const unsigned long bad = BAD_ADDRESS;
    char *page = page_alloc();

    ktap_plan(TOP_LEVEL == 4 ? 20 : 18);
    ok_result(mmuext(14, 0, 0), -ENOSYS, "14: never given a meaning");
    ok_result(mmuext(21, 0, 0), -ENOSYS, "21: behind the last");
    ok_result(mmuext(0xffffffff, 0, 0), -ENOSYS, "the highest number");
    ok_result(mmuext(MMUEXT_MARK_SUPER, va_mfn(page), 0), -EOPNOTSUPP, "MARK_SUPER");
    ok_result(mmuext(MMUEXT_UNMARK_SUPER, va_mfn(page), 0), -EOPNOTSUPP, "UNMARK_SUPER");
    for (int level = 1; level <= TOP_LEVEL; level++)
        ok_result(pin(INVALID_MFN, level), -EINVAL, "PIN_L%d_TABLE: no such frame", level);
    ok_result(unpin(INVALID_MFN), -EINVAL, "UNPIN_TABLE: no such frame");
    ok_result(mmuext(MMUEXT_NEW_BASEPTR, INVALID_MFN, 0), -EINVAL, "NEW_BASEPTR: no such frame");
    ok_result(mmuext(MMUEXT_NEW_USER_BASEPTR, INVALID_MFN, 0), -EINVAL, "NEW_USER_BASEPTR: the same");
    ok_result(mmuext(MMUEXT_INVLPG_LOCAL, bad, 0), 0, "INVLPG_LOCAL: any address will do");
    ok_result(mmuext(MMUEXT_INVLPG_ALL, HYPERVISOR_VIRT_START, 0), 0, "INVLPG_ALL: Xen's too");
    ok_result(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, bad), -EINVAL, "TLB_FLUSH_MULTI: a bad set of CPUs");
    ok_result(mmuext(MMUEXT_INVLPG_MULTI, 0, bad), -EINVAL, "INVLPG_MULTI: the same");
    ok_result(mmuext(MMUEXT_SET_LDT, 0, 0), 0, "SET_LDT: none");
    ok_result(mmuext(MMUEXT_SET_LDT, (unsigned long)page + 8, 1), -EINVAL, "SET_LDT: misaligned");
    ok_result(mmuext(MMUEXT_SET_LDT, (unsigned long)page, 8193), -EINVAL, "SET_LDT: too many");
    if (TOP_LEVEL == 4) /* a 32-bit guest's addresses are all below what Xen looks for here */
        ok_result(mmuext(MMUEXT_SET_LDT, HYPERVISOR_VIRT_START, 1), -EINVAL,
                  "SET_LDT: Xen's memory");
    return 0;
}
