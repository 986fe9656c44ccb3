// cowbird: description = another L4 is loaded: what is at an address changes at once
// cowbird: environments = pv64, pv32, xen
/*
 * NEW_BASEPTR loads CR3, which drops all translations but global ones; a kernel's are not global.
 *
 * Source: Intel SDM 3A, 4.10.4.1.
 */
#include "cowbird.h"

static char *const at = (char *)AWAY;

int main(void)
{
    char *a = page_alloc(), *b = page_alloc();
    mfn_t first = l4_current(), second = l4_new();

    ktap_plan(12);
    memset(a, 'a', PAGE_SIZE);
    memset(b, 'b', PAGE_SIZE);
    ok_result(pte_map_at(first, at, make_pte(va_mfn(a), PTE_RW)), 0, "one page in the first");
    ok_result(pte_map_at(second, at, make_pte(va_mfn(b), PTE_RO)), 0, "another in the second");
    ok_value(*at, 'a', "the first is loaded");
    ok_fault(probe_write(at + 1), NO_FAULT, "writable");
    ok_result(l4_load(second), 0, "now the second");
    ok_value(*at, 'b', "the other page");
    ok_fault(probe_write(at + 1), PF(PF_P | PF_W), "read-only");
    ok_value(a[1], 0x5a, "the kernel's own pages are in both");
    ok_result(l4_load(first), 0, "the first");
    ok_value(at[1], 0x5a, "its page again");
    ok_result(unpin(second), 0, "the second is given up");
    ok_fault(probe_read(at), NO_FAULT, "which changes nothing in the first");
    return 0;
}
