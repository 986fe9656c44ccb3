// cowbird: description = system calls of user mode: the syscall callback, masked events, none at all
/*
 * SYSCALL in kernel mode is a hypercall; in user mode it enters the callback of CALLBACKTYPE_syscall
 * with a frame as for a trap (rcx = rip and r11 = rflags as the CPU left them). Without a callback
 * the instruction is #UD (Xen: lstar_enter).
 */

#include "frame.h"

static struct regs seen;
static uint8_t seen_mask;

static bool on_syscall(struct regs *regs)
{
    if (!regs->rax)
        return false;
    seen = *regs;
    seen_mask = event_mask();
    regs->rax = 99;
    return true;
}

static long call_5(long unused)
{
    register long r10 __asm__("r10") = 4;
    long result = 5;

    __asm__ volatile("syscall" : "+a"(result) : "D"(1L), "S"(2L), "d"(3L), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static long syscall_callback(unsigned int flags, void *address)
{
    struct callback_register callback = {
        .type = CALLBACKTYPE_syscall, .flags = (uint16_t)flags, .address = (unsigned long)address};

    return HYPERVISOR_callback_op(CALLBACKOP_register, &callback);
}

int main(void)
{
    long value = 0;

    ktap_plan(13);
    set_handler(TRAP_SYSCALL, on_syscall);
    ok_fault(user_run(call_5, 0, &value), NO_FAULT, "a system call");
    ok_value(value, 99, "is answered");
    ok(seen.rdi == 1 && seen.rsi == 2 && seen.rdx == 3 && seen.r10 == 4, "all registers arrive");
    ok_value(*(uint16_t *)(seen.rip - 2), 0x050f, "rip is behind the instruction");
    ok_value(seen.rcx, seen.rip, "and in rcx");
    ok_value(seen.cs & 3, 3, "cs says user mode");
    ok_value(seen.ss, FLAT_USER_SS, "ss");
    ok_value(seen_mask, 1, "events are masked, as the callback asked");

    ok_result(syscall_callback(0, trap_entry(TRAP_SYSCALL)), 0, "a callback that does not ask");
    set_event_mask(0);
    user_run(call_5, 0, &value);
    ok_value(seen_mask, 0, "has them as they were");
    set_event_mask(1);
    ok_result(syscall_callback(0, (void *)0x800000000000), -EINVAL,
              "a callback at a non-canonical address is refused");
    ok_result(syscall_callback(0, NULL), 0, "no callback");
    ok_fault(user_run(call_5, 0, &value), UD, "then SYSCALL is #UD");
    return 0;
}
