// cowbird: description = one L4 as kernel's and user's address space at once, and who keeps it alive
/*
 * Each of the two base pointers holds a reference of its own.
 *
 * Source: xen/arch/x86/mm.c (MMUEXT_NEW_USER_BASEPTR).
 */
#include "cowbird.h"

static long kernels = 77;

static long load(long va)
{
    return *(volatile long *)va;
}

int main(void)
{
    mfn_t first = l4_current(), second = l4_new(), users = user_l4();
    long value = 0;

    ktap_plan(12);
    ok_fault(user_run(load, (long)&kernels, &value), PF(PF_U), "the user has its own address space");
    ok_result(user_l4_load(second), 0, "now it is given one of the kernel's");
    ok_fault(user_run(load, (long)&kernels, &value), NO_FAULT, "it can read the kernel's data");
    ok_value(value, 77, "as it is");
    ok_result(l4_load(second), 0, "the kernel takes the same");
    ok_result(unpin(second), 0, "unpinned, both hold it");
    ok_result(l4_load(first), 0, "the kernel leaves");
    ok_fault(user_run(load, (long)&kernels, &value), NO_FAULT, "the user goes on");
    ok_result(pin(second, 3), -EINVAL, "it is still an L4");
    ok_result(user_l4_load(users), 0, "the user leaves");
    ok_result(pin(second, 4), 0, "nothing holds it: it can be one again");
    ok_result(unpin(second), 0, "or not");
    return 0;
}
