// cowbird: description = pin and unpin at every level: once, not twice, and only what is pinned
// cowbird: environments = pv64, pv32, xen
/*
 * A pin is one reference of each kind, remembered in the frame itself; so there is at most one.
 *
 * Source: xen/arch/x86/mm.c (MMUEXT_PIN_*, MMUEXT_UNPIN_TABLE).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();
    const mfn_t mfn = va_mfn(page);

    ktap_plan(1 + EMPTY_TABLES * 6);
    ok_result(pte_protect(page, PTE_RO), 0, "a read-only page");
    for (int level = 1; level <= EMPTY_TABLES; level++) {
        ok_result(unpin(mfn), -EINVAL, "it is not pinned");
        ok_result(pin(mfn, level), 0, "pinned as L%d", level);
        ok_result(pin(mfn, level), -EINVAL, "not twice");
        ok_result(pin(mfn, level % EMPTY_TABLES + 1), -EINVAL, "not as another level");
        ok_result(unpin(mfn), 0, "unpinned");
        ok_result(unpin(mfn), -EINVAL, "not twice");
    }
    return 0;
}
