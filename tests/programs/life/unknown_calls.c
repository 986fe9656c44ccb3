// cowbird: description = hypercalls that do not exist, and multicalls that are wrong
/* Xen answers -ENOSYS to an unknown number; a multicall goes on behind an entry that fails. */

#include "cowbird.h"

int main(void)
{
    static struct multicall_entry calls[3];

    ktap_plan(10);
    ok_result(hypercall(63), -ENOSYS, "63");
    ok_result(hypercall(200), -ENOSYS, "200");
    ok_result(hypercall(~0UL), -ENOSYS, "-1");
    ok_result(hypercall(1UL << 32 | __HYPERVISOR_xen_version, XENVER_version), -ENOSYS,
              "all of RAX counts");
    ok_result(HYPERVISOR_multicall(calls, 0), 0, "a multicall of nothing");
    ok_result(HYPERVISOR_multicall((void *)0x5000, 1), -EFAULT, "one that is not there");
    calls[0].op = 63;
    calls[1] = (struct multicall_entry){.op = __HYPERVISOR_xen_version, .args = {XENVER_version}};
    calls[2] = (struct multicall_entry){.op = __HYPERVISOR_multicall, .args = {(unsigned long)calls, 1}};
    ok_result(HYPERVISOR_multicall(calls, 3), 0, "an unknown call, a known one, a nested multicall");
    ok_result(calls[0].result, -ENOSYS, "-ENOSYS");
    ok_value(calls[1].result, 4 << 16 | 17, "its answer");
    ok_result(calls[2].result, -EINVAL, "refused");
    return 0;
}
