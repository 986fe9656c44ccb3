// cowbird: description = multicall: results in place, errors that stop nothing, nesting, pointers
// cowbird: environments = pv64, pv32, xen
/*
 * Each entry is a hypercall with a result of its own; the call's own answer is about its list.
 *
 * Source: xen/common/multicall.c.
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc();
    struct multicall_entry calls[4] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_update_va_mapping, .args = {AWAY, 0, 0}},
        {.op = __HYPERVISOR_multicall, .args = {(unsigned long)calls, 1}},
        {.op = 4000},
    };
    struct multicall_entry *edge;

    ktap_plan(14);
    ok_result(HYPERVISOR_multicall(calls, 4), 0, "four calls");
    ok_result((long)calls[0].result, HYPERVISOR_xen_version(XENVER_version, NULL), "a result");
    ok_result((long)calls[1].result, -EINVAL, "an error does not stop it");
    ok_result((long)calls[2].result, -EINVAL, "a multicall in a multicall");
    ok_result((long)calls[3].result, -ENOSYS, "no such hypercall");
    ok_value(calls[0].args[0], XENVER_version, "arguments stay as they were");
    ok_result(HYPERVISOR_multicall(calls, 0), 0, "none");
    ok_result(HYPERVISOR_multicall(NULL, 0), 0, "none at NULL");
    ok_result(HYPERVISOR_multicall((void *)0x0000800000000000, 1), -EFAULT, "a bad pointer");
    ok_result(HYPERVISOR_multicall((void *)HYPERVISOR_VIRT_START, 1), -EFAULT, "Xen's memory");
    ok_result(HYPERVISOR_multicall(window_alloc(), 1), -EFAULT, "nothing mapped");

    /* One entry at the end of a page, the next behind what is mapped. */
    edge = (struct multicall_entry *)(page + PAGE_SIZE) - 1;
    *edge = calls[0];
    edge->result = 0;
    pte_protect(page, PTE_RO);
    ok_result(HYPERVISOR_multicall(edge, 1), -EFAULT, "a result that cannot be written");
    pte_protect(page, PTE_RW);
    ok_value(edge->result, 0, "is not there");
    ok_result(HYPERVISOR_multicall(edge, 1), 0, "writable");
    return 0;
}
