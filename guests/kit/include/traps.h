/*
 * Traps: C handlers by vector, and calls that report a fault instead of dying of it.
 *
 * The order in which a trap looks for somebody: a handler (set_handler) that returns true; the
 * innermost catch_fault() if the kernel was running; the end of user_run() if the user was; panic.
 *
 * Error codes are those that Xen hands to the guest. A 64-bit guest's modes both run in ring 3 of
 * the hardware, and Xen clears the U bit of a #PF that happened in kernel mode; a 32-bit kernel runs
 * in ring 1, where the hardware leaves it clear.
 */

#ifndef COWBIRD_TRAPS_H
#define COWBIRD_TRAPS_H

#define TRAP_DE 0
#define TRAP_DB 1
#define TRAP_NMI 2
#define TRAP_BP 3
#define TRAP_OF 4
#define TRAP_BR 5
#define TRAP_UD 6
#define TRAP_NM 7
#define TRAP_DF 8
#define TRAP_TS 10
#define TRAP_NP 11
#define TRAP_SS 12
#define TRAP_GP 13
#define TRAP_PF 14
#define TRAP_MF 16
#define TRAP_AC 17
#define TRAP_MC 18
#define TRAP_XM 19

/* Not vectors of the CPU: Xen's callbacks, for regs.vector and set_handler(). */
#define TRAP_SYSCALL 256
#define TRAP_EVENT 257
#define TRAP_FAILSAFE 258
#define TRAP_COUNT 259

/* #PF error code. */
#define PF_P 0x01  /* the page was present: a matter of rights */
#define PF_W 0x02  /* a write */
#define PF_U 0x04  /* from user mode (the guest's, not the hardware's) */
#define PF_RSVD 0x08
#define PF_I 0x10  /* an instruction fetch */

#define FLAGS_IF 0x200
#define FLAGS_TF 0x100

/* 32 bits: the vector of the `int` that is user_syscall(), unless it has a handler of its own. */
#define USER_SYSCALL 0x81

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stdint.h>

/*
 * What the CPU was doing; a handler may change everything but `cr2` and `vector`. For 32 bits the
 * fields have their 64-bit names too, so that a handler can serve both widths.
 */
#ifdef __x86_64__
struct regs {
    unsigned long cr2; /* of a #PF, else 0 */
    unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    unsigned long vector;
    unsigned long error_code; /* 0 where the trap has none */
    unsigned long rip;
    uint32_t cs;
    uint32_t saved_upcall_mask;
    unsigned long rflags, rsp, ss;
};
#else
#define EITHER_NAME(name)                                                                      \
    union {                                                                                    \
        unsigned long e##name, r##name;                                                        \
    }
struct regs {
    unsigned long cr2;
    EITHER_NAME(bp);
    EITHER_NAME(bx);
    EITHER_NAME(ax);
    EITHER_NAME(cx);
    EITHER_NAME(dx);
    EITHER_NAME(si);
    EITHER_NAME(di);
    unsigned long vector;
    unsigned long error_code;
    EITHER_NAME(ip);
    uint16_t cs;
    uint8_t saved_upcall_mask, pad;
    EITHER_NAME(flags);
    EITHER_NAME(sp); /* Xen says this and ss only of user mode; entry32.S knows the kernel's */
    unsigned long ss;
};
#endif

static inline bool from_user(const struct regs *regs)
{
    return (regs->cs & 3) == 3; /* a kernel's CS has RPL 1, or Xen clears it (64 bits) */
}

/* A fault as one number, or NO_FAULT. */
typedef int fault_t;
#define NO_FAULT (-1)
#define FAULT(vector, error) ((fault_t)((vector) << 16 | (int)(error)))
#define PF(error) FAULT(TRAP_PF, error)
#define GP(error) FAULT(TRAP_GP, error)
#define UD FAULT(TRAP_UD, 0)
#define fault_vector(fault) ((fault) >> 16)
#define fault_error(fault) ((fault) & 0xffff)

/* "#PF" for 14; "trap" for a vector without a name. */
const char *trap_name(unsigned int vector);

/*
 * Handlers. `handler` runs on the interrupted stack (from user mode: the trap stack), with events
 * masked; true: go on with *regs, false: as if there were no handler. NULL takes it away.
 * Vectors from 32 up get an entry in the trap table at the first call; so can be reached by `int`.
 * Returns the old handler.
 */
typedef bool (*handler_t)(struct regs *regs);
handler_t set_handler(unsigned int vector, handler_t handler);

/* Who may reach `vector` by `int n`: dpl 0 the kernel, 3 (as at start for 3 and 4) users too. */
long set_trap_dpl(unsigned int vector, unsigned int dpl);

/* Writes one entry of the trap table as it is; address 0 is not possible. */
long set_trap_entry(unsigned int vector, unsigned int flags, unsigned int cs, void *address);

/* The entry point that the kit gives Xen for `vector` (0-255 or one of the callbacks above). */
void *trap_entry(unsigned int vector);

/*
 * Calls function(argument). If a fault happens in it that no handler takes, it is left at once
 * and the fault returned. May be nested. last_fault() then has the registers and CR2.
 */
fault_t catch_fault(void (*function)(void *argument), void *argument);
const struct regs *last_fault(void);

/*
 * One access of one byte each. probe_write() stores 0x5a; probe_exec() calls what is at `va`,
 * which must be a function that just returns (page_fill_ret).
 */
fault_t probe_read(const volatile void *va);
fault_t probe_write(volatile void *va);
fault_t probe_exec(const void *va);

/* The same for a word: the value read (unchanged on a fault), the value to store. */
fault_t probe_load(const volatile void *va, unsigned long *value);
fault_t probe_store(volatile void *va, unsigned long value);

/* Goes on at *regs, in the kernel or the user, by the iret hypercall. Never returns. */
void trap_return(struct regs *regs) __attribute__((noreturn));

/* Prints the registers, one `# ` line each. */
void dump_regs(const struct regs *regs);

#endif /* !__ASSEMBLER__ */
#endif
