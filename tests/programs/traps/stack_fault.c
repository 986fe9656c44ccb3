// cowbird: description = an address in the stack segment that is not canonical: #SS, not #GP
// cowbird: difference = QEMU gives #GP for every access that is not canonical, hardware #SS for those through RSP or RBP
/*
 * A memory operand with base RSP or RBP is in the stack segment, as is what PUSH, POP, CALL and RET
 * access; R12 and R13 are not, nor is anything with an FS or GS prefix.
 *
 * Source: Intel SDM 1, 3.3.7.1 and 3.7.4; volume 2 (exceptions of MOV, PUSH, POP, CALL, LEAVE).
 */
#include "cowbird.h"

#define STACK FAULT(TRAP_SS, 0)
#define LOW 0x0000800000000000UL

/* RBP and RSP are saved in registers: a handler that leaves by catch_fault restores neither. */
#define PROBE(name, code)                                                                      \
    static void name(void *at)                                                                 \
    {                                                                                          \
        __asm__ volatile("movq %%rbp, %%r8; movq %0, %%rbp;" code "; movq %%r8, %%rbp"         \
                         : : "a"(at) : "memory", "cc", "rcx", "r8", "r12", "r13");             \
    }

PROBE(load, "movq (%%rbp), %%rcx")
PROBE(store, "movb %%cl, -16(%%rbp)")
PROBE(by_rsp, "movq -8(%%rsp, %%rax, 2), %%rcx")
PROBE(add, "lock addl $1, 8(%%rbp)")
PROBE(push, "pushq (%%rbp)")
PROBE(call, "call *(%%rbp)")
PROBE(leave, "leave")
PROBE(by_rax, "movq (%%rax), %%rcx")
PROBE(by_r12, "movq %%rax, %%r12; movq (%%r12), %%rcx")
PROBE(by_r13, "movq %%rax, %%r13; movq (%%r13), %%rcx")
PROBE(by_gs, "movq %%gs:(%%rbp), %%rcx")

static long user_push(long at)
{
    __asm__ volatile("movq %%rsp, %%r8; movq %0, %%rsp; pushq %%rax; movq %%r8, %%rsp"
                     : : "r"(at) : "memory", "r8");
    return 0;
}

static long user_pop(long at)
{
    __asm__ volatile("movq %%rsp, %%r8; movq %0, %%rsp; popq %%rax; movq %%r8, %%rsp"
                     : : "r"(at) : "memory", "r8", "rax");
    return 0;
}

int main(void)
{
    void *at = (void *)(LOW + 0x1000);

    ktap_plan(14);
    ok_fault(catch_fault(load, at), STACK, "load through RBP");
    ok_fault(catch_fault(store, at), STACK, "store through RBP");
    ok_fault(catch_fault(add, at), STACK, "read-modify-write through RBP");
    ok_fault(catch_fault(by_rsp, at), STACK, "load through RSP with an index");
    ok_fault(catch_fault(push, at), STACK, "push of what is behind RBP");
    ok_fault(catch_fault(call, at), STACK, "call through RBP");
    ok_fault(catch_fault(leave, at), STACK, "leave");
    ok_fault(catch_fault(by_rax, at), GP(0), "load through RAX");
    ok_fault(catch_fault(by_r12, at), GP(0), "R12");
    ok_fault(catch_fault(by_r13, at), GP(0), "R13");
    ok_fault(catch_fault(by_gs, at), GP(0), "RBP, but in GS");
    ok_fault(user_run(user_push, (long)at, NULL), STACK, "push, in user mode");
    ok_fault(user_run(user_pop, (long)at, NULL), STACK, "pop, in user mode");
    ok_value(last_fault()->rsp, (unsigned long)at, "with the bad RSP");
    return 0;
}
