// cowbird: description = a trap out of user mode: the stack of stack_switch, cs with RPL 3
/*
 * From user mode the frame begins at the stack that stack_switch named, aligned down to 16, not at
 * the user's; CS keeps RPL 3, by which the kernel tells the modes apart (xen-x86_64.h).
 */

#include "frame.h"

static char stack[512] __attribute__((aligned(64)));

static __user_data uint64_t user_rsp;

static long user_ud2(long unused)
{
    __asm__ volatile("mov %%rsp, %0; ud2" : "=m"(user_rsp));
    return 0;
}

static void go(void *unused)
{
    user_run(user_ud2, 0, NULL);
}

int main(void)
{
    char *top = stack + 256;

    ktap_plan(10);
    user_l4();
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    for (unsigned int offset = 0; offset < 16; offset += 9) {
        ok_result(HYPERVISOR_stack_switch(FLAT_KERNEL_SS, (unsigned long)top + offset), 0,
                  "a kernel stack, %u above a multiple of 16", offset);
        raw_run(go, NULL);
        ok_value(raw.rsp, top - 56, "the frame is on it, aligned");
    }
    ok_value(raw.word[3], FLAT_USER_CS | 1UL << 32, "cs has RPL 3");
    ok_value(raw.word[5], user_rsp, "rsp is the user's");
    ok_value(raw.word[6], FLAT_USER_SS, "ss");
    ok_fault(probe_read(stack), NO_FAULT, "the kernel's address space is in place");
    ok_result(HYPERVISOR_stack_switch(0, (unsigned long)top), 0, "a null SS gets RPL 3");
    raw_run(go, NULL);
    ok_value(raw.rsp, top - 56, "and the stack is used");
    return 0;
}
