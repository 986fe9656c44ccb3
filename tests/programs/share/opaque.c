// cowbird: description = opaque mode: the status is always 0 and the frame always another
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
// cowbird: opaque = yes
/* design.md section 4, "what leaks": the caller cannot tell whether somebody had this content. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1), *c = filled_page(2);
    mfn_t old_a = va_mfn(a), old_b = va_mfn(b), old_c = va_mfn(c);
    struct share_req request;
    unsigned int done;
    long pages = reservation();

    ktap_plan(11);
    ok_result(share(a), 0, "new contents: 0");
    ok(va_mfn(a) != old_a, "in another frame");
    ok_result(share(b), 0, "contents that are there: 0 too");
    ok(va_mfn(b) != old_b, "in another frame as well");
    ok_result(share(b), 0, "again: 0");
    request = (struct share_req){.ptr = pte_maddr(c)};
    ok_result(HYPERVISOR_make_ro_and_share_batch(&request, 1, &done, 0), 0, "in a batch");
    ok_result(request.status, 0, "0");
    ok(va_mfn(c) != old_c, "and another frame");
    ok(page_check(a, 1) && page_check(b, 1) && page_check(c, 2), "contents are what they were");
    ok_value(reservation(), pages - 3, "three pages less");
    ok_fault(probe_write(a), PF(PF_P | PF_W), "a write faults");
    return 0;
}
