// cowbird: description = user mode: results, faults with the U bit, system calls, own mappings

#include "cowbird.h"

static __user_data long shared_with_user = 5;
static long kernels_own = 6;

static long add(long value)
{
    shared_with_user += value;
    return shared_with_user;
}

static long read_kernels(long unused)
{
    return *(volatile long *)&kernels_own;
}

static long call_kernel(long value)
{
    return user_syscall(7, value, 20, 300) + user_syscall(8, 0, 0, 0);
}

static long jump_to_nothing(long unused)
{
    __asm__ volatile("ud2");
    return 0;
}

static bool on_syscall(struct regs *regs)
{
    if (regs->rax != 7)
        return false;
    regs->rax = regs->rdi + regs->rsi + regs->rdx;
    return true;
}

int main(void)
{
    char *const at = (char *)0x700000000000;
    char *page = page_alloc();
    long value = 0;
    mfn_t second;

    ktap_plan(19);
    ok_fault(user_run(add, 37, &value), NO_FAULT, "a function runs");
    ok_value(value, 42, "and returns");
    ok_value(shared_with_user, 42, "the kernel sees what it wrote");
    ok_fault(user_run(read_kernels, 0, &value), PF(PF_U), "the kernel's data is not there");
    ok_value(last_fault()->cr2, &kernels_own, "CR2");
    ok_fault(user_write((void *)add), PF(PF_P | PF_W | PF_U), "text cannot be written");
    ok_fault(user_run(jump_to_nothing, 0, NULL), UD, "another fault");
    set_handler(TRAP_SYSCALL, on_syscall);
    ok_fault(user_run(call_kernel, 1, &value), NO_FAULT, "system calls");
    ok_value(value, 321 - ENOSYS, "and their answers");

    page_fill_ret(page);
    ok_result(user_map(at, make_pte(va_mfn(page), PTE_USER_RO)), 0, "a page of its own");
    ok_fault(user_read(at), NO_FAULT, "is read");
    ok_fault(user_exec(at), NO_FAULT, "executed");
    ok_fault(user_write(at), PF(PF_P | PF_W | PF_U), "not written");
    ok_fault(probe_read(at), PF(0), "and not in the kernel's address space");
    ok_result(user_map(at, 0), 0, "unmapped");
    ok_fault(user_exec(at), PF(PF_U | PF_I), "a fetch from nothing");

    second = user_l4_new();
    ok_result(user_l4_load(second), 0, "a second address space");
    ok_fault(user_run(add, 8, &value), NO_FAULT, "runs too");
    ok_value(value, 50, "on the same data");
    return 0;
}
