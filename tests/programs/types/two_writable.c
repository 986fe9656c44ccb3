// cowbird: description = with two writable mappings, both must go before a frame can be a table
// cowbird: environments = pv64, pv32, xen
/*
 * The type count counts the writable mappings, wherever they are.
 *
 * Source: xen/arch/x86/mm.c (get_page_type, put_page_type).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *alias = window_alloc(), *const user = (char *)FURTHER_AWAY;
    const mfn_t mfn = va_mfn(page);

    ktap_plan(9);
    ok_result(pte_set(alias, make_pte(mfn, PTE_RW)), 0, "a second writable mapping");
    ok_result(user_map(user, make_pte(mfn, PTE_USER_RW)), 0, "a third, the user's");
    ok_result(pte_protect(page, PTE_RO), 0, "the first is read-only");
    ok_result(pin(mfn, 1), -EINVAL, "two are left");
    ok_result(user_map(user, 0), 0, "the user's goes");
    ok_result(pin(mfn, 1), -EINVAL, "one is left");
    ok_result(pte_set(alias, make_pte(mfn, PTE_RO)), 0, "read-only");
    ok_result(pin(mfn, 1), 0, "none");
    ok_result(unpin(mfn), 0, "unpinned");
    return 0;
}
