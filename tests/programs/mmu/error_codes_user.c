// cowbird: description = every #PF error code that a user process can cause: U is set
// cowbird: environments = pv64, pv32, xen
/*
 * Source: Intel SDM 3A, 4.7. See error_codes_kernel.c for the kernel's.
 */
#include "cowbird.h"

int main(void)
{
    char *const at = (char *)FURTHER_AWAY;
    char *page = page_alloc();

    ktap_plan(11);
    page_fill_ret(page);
    ok_fault(user_read(at), PF(PF_U), "read, absent at the top level");
    ok_result(user_map(at, 0), 0, "tables down to L1, an empty entry");
    ok_fault(user_read(at + 1), PF(PF_U), "read, absent");
    ok_fault(user_write(at + 2), PF(PF_U | PF_W), "write, absent");
    ok_fault(user_exec(at + 3), PF(PF_U | PF_I), "fetch, absent");
    ok_value(last_fault()->cr2, at + 3, "CR2");
    ok_result(user_map(at, make_pte(va_mfn(page), PTE_USER_RO | PTE_NX)), 0, "mapped, read only");
    ok_fault(user_read(at), NO_FAULT, "read, allowed");
    ok_fault(user_write(at + 8), PF(PF_U | PF_P | PF_W), "write, read-only");
    ok_value(last_fault()->cr2, at + 8, "CR2");
    ok_fault(user_exec(at), PF(PF_U | PF_P | PF_I), "fetch, NX");
    return 0;
}
