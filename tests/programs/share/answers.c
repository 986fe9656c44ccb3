// cowbird: description = make_ro_and_share: entered, merged, again; the frame, the rights, the contents
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: 0 nobody had this content, 1 merged; 1 too for an entry that is shared already. */

#include "share_test.h"

int main(void)
{
    char *a = filled_page(1), *b = filled_page(1), *c = filled_page(2), *code = page_alloc();
    mfn_t frame_a = va_mfn(a), frame_b = va_mfn(b);

    ktap_plan(15);
    ok_result(share(a), 0, "a page that nobody has: entered");
    ok_value(va_mfn(a), frame_a, "in its own frame");
    ok_result(share(b), 1, "another of the same contents: merged");
    ok_value(va_mfn(b), frame_a, "into the first one's frame");
    ok(frame_b != frame_a, "which was not its own");
    ok_result(share(c), 0, "other contents: entered");
    ok(va_mfn(c) != frame_a, "in a frame of their own");
    ok_result(share(b), 1, "sharing it again says so");
    ok_value(va_mfn(b), frame_a, "and changes no frame");
    ok(page_check(a, 1) && page_check(b, 1) && page_check(c, 2), "contents are what they were");
    ok_fault(probe_write(a), PF(PF_P | PF_W), "a write to the first faults: present, write");
    ok_fault(probe_write(b), PF(PF_P | PF_W), "to the second too");
    ok_value(last_fault()->cr2, b, "CR2 is its address");
    ok_fault(probe_read(a), NO_FAULT, "a read does not");
    page_fill_ret(code);
    share(code);
    ok_fault(probe_exec(code), NO_FAULT, "and a shared page may be executed");
    return 0;
}
