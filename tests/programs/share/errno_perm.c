// cowbird: description = -EPERM of make_ro_and_share: frames of Xen's
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* design.md section 4: the frame is another domain's or the hypervisor's. */

#include "share_test.h"

int main(void)
{
    ktap_plan(3);
    ok_result(share(shared_info), -EPERM, "shared_info belongs to Xen");
    ok(pte_get(shared_info) & PTE_W, "and stays writable");
    ok_fault(probe_write((char *)shared_info + 4000), NO_FAULT, "really");
    return 0;
}
