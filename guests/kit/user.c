/* User mode: its address space, going there, and coming back. */

#include "internal.h"

static mfn_t first_l4;
static bool loaded;
static unsigned long kernel_rsp; /* of user_enter; 0: the user is not running */
static long user_value;

#ifdef __x86_64__
/* Maps the user's part of the image below a user's table. */
static mfn_t user_table_new(void)
{
    char *table = page_alloc();
    mfn_t l4 = va_mfn(table);
    long error = make_table(table, 4);

    for (char *va = image_start; va < user_end && !error; va += PAGE_SIZE) {
        uint64_t flags = va < readonly_end ? PTE_USER_RO : PTE_USER_RW;

        error = pte_map_at(l4, va, make_pte(va_mfn(va), flags));
    }
    if (error)
        bail("no user address space: %pe", ERR(error));
    return l4;
}

mfn_t user_l4_new(void)
{
    return user_table_new();
}
#else
/* The kernel's own tables serve the user: the user's part of the image becomes accessible. */
static mfn_t user_table_new(void)
{
    long error = 0;

    for (char *va = image_start; va < user_end && !error; va += PAGE_SIZE)
        error = pte_protect(va, va < readonly_end ? PTE_USER_RO : PTE_USER_RW);
    if (error)
        bail("no user address space: %pe", ERR(error));
    return l4_current();
}

mfn_t user_l4_new(void)
{
    mfn_t table;

    user_l4();
    table = l4_new();
    if (table == INVALID_MFN)
        bail("no user address space: Xen refuses the tables");
    return table;
}
#endif

mfn_t user_l4(void)
{
    long error;

    if (!first_l4)
        first_l4 = user_table_new();
    if (!loaded) {
        error = user_l4_load(first_l4);
        if (error)
            bail("the user's L4 is refused: %pe", ERR(error));
    }
    return first_l4;
}

long user_l4_load(mfn_t l4)
{
#ifdef __x86_64__
    long error = mmuext(MMUEXT_NEW_USER_BASEPTR, l4, 0);
#else
    long error = l4_load(l4);
#endif

    if (!error)
        loaded = true;
    return error;
}

long user_map(const volatile void *va, pte_t entry)
{
    long error = pte_map_at(user_l4(), va, entry);

    if (!error && TOP_LEVEL < 4)
        flush_page(va); /* the kernel may have used it */
    return error;
}

bool user_trap(struct regs *regs)
{
    fault_t fault = NO_FAULT;

    if (regs->vector == TRAP_SYSCALL && regs->rax) {
        regs->rax = (unsigned long)-ENOSYS;
        return true;
    }
    if (!kernel_rsp)
        return false;
    if (regs->vector == TRAP_SYSCALL) {
        user_value = (long)regs->rdi;
    } else {
        remember_fault(regs);
        fault = FAULT((int)regs->vector, regs->error_code);
    }
    resume_kernel(regs, user_leave, kernel_rsp, (unsigned long)(long)fault);
    return true;
}

fault_t user_run(long (*function)(long argument), long argument, long *value)
{
    struct regs regs = {
        .rip = (unsigned long)user_begin,
        .rdi = (unsigned long)function,
        .rsi = (unsigned long)argument,
        .rsp = (unsigned long)user_stack_top,
        .cs = FLAT_USER_CS,
        .ss = FLAT_USER_SS,
        .rflags = 2 | (shared_info->vcpu_info[0].evtchn_upcall_mask ? 0 : FLAGS_IF),
    };
    fault_t fault;

    user_l4();
    fault = (fault_t)user_enter(&regs, &kernel_rsp);
    kernel_rsp = 0;
    if (fault == NO_FAULT && value)
        *value = user_value;
    return fault;
}

/* --- what the probes run there --- */

static long read_byte(long va)
{
    uint8_t byte;

    __asm__ volatile("movb (%1), %0" : "=q"(byte) : "r"(va));
    return byte;
}

static long write_byte(long va)
{
    __asm__ volatile("movb %1, (%0)" : : "r"(va), "q"((uint8_t)0x5a) : "memory");
    return 0;
}

static long call(long va)
{
    ((void (*)(void))va)();
    return 0;
}

fault_t user_read(const volatile void *va)
{
    return user_run(read_byte, (long)va, NULL);
}

fault_t user_write(volatile void *va)
{
    return user_run(write_byte, (long)va, NULL);
}

fault_t user_exec(const void *va)
{
    return user_run(call, (long)va, NULL);
}
