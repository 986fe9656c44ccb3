/* Where every trap arrives in C; handlers, caught faults and probes. */

#include "internal.h"

struct catch {
    unsigned long rsp;
    struct catch *outer;
};

static handler_t handlers[TRAP_COUNT];
static uint8_t in_table[256];
static struct catch *innermost;
static struct regs last;

static const char *const names[] = {
    [TRAP_DE] = "#DE", [TRAP_DB] = "#DB", [TRAP_NMI] = "NMI", [TRAP_BP] = "#BP",
    [TRAP_OF] = "#OF", [TRAP_BR] = "#BR", [TRAP_UD] = "#UD",  [TRAP_NM] = "#NM",
    [TRAP_DF] = "#DF", [TRAP_TS] = "#TS", [TRAP_NP] = "#NP",  [TRAP_SS] = "#SS",
    [TRAP_GP] = "#GP", [TRAP_PF] = "#PF", [TRAP_MF] = "#MF",  [TRAP_AC] = "#AC",
    [TRAP_MC] = "#MC", [TRAP_XM] = "#XM",
};

const char *trap_name(unsigned int vector)
{
    if (vector == TRAP_SYSCALL)
        return "syscall";
    if (vector == TRAP_EVENT)
        return "event";
    if (vector == TRAP_FAILSAFE)
        return "failsafe";
    return vector < ARRAY_SIZE(names) && names[vector] ? names[vector] : "trap";
}

void *trap_entry(unsigned int vector)
{
    return trap_entries + 16 * vector;
}

long set_trap_entry(unsigned int vector, unsigned int flags, unsigned int cs, void *address)
{
    const struct trap_info table[2] = {
        {(uint8_t)vector, (uint8_t)flags, (uint16_t)cs, (unsigned long)address},
    };

    in_table[vector] = 1;
    return HYPERVISOR_set_trap_table(table);
}

#define MASK_EVENTS 4 /* in trap_info.flags */

long set_trap_dpl(unsigned int vector, unsigned int dpl)
{
    return set_trap_entry(vector, dpl | MASK_EVENTS, FLAT_KERNEL_CS, trap_entry(vector));
}

handler_t set_handler(unsigned int vector, handler_t handler)
{
    handler_t old = handlers[vector];

    handlers[vector] = handler;
    if (vector < 256 && !in_table[vector])
        set_trap_dpl(vector, 0);
    return old;
}

static void set_callback(unsigned int type, unsigned int flags, unsigned int trap)
{
    const struct callback_register callback = {
        .type = (uint16_t)type,
        .flags = (uint16_t)flags,
#ifdef __x86_64__
        .address = (unsigned long)trap_entry(trap),
#else
        .address = {FLAT_KERNEL_CS, (unsigned long)trap_entry(trap)},
#endif
    };
    long error = HYPERVISOR_callback_op(CALLBACKOP_register, &callback);

    if (error)
        panic("the %s callback is refused: %pe", trap_name(trap), ERR(error));
}

void traps_start(void)
{
    struct trap_info table[ARRAY_SIZE(names) + 1] = {0};
    unsigned int used = 0;
    long error;

    for (unsigned int vector = 0; vector < ARRAY_SIZE(names); vector++) {
        if (!names[vector] || vector == TRAP_NMI)
            continue;
        table[used++] = (struct trap_info){
            .vector = (uint8_t)vector,
            .flags = MASK_EVENTS | (vector == TRAP_BP || vector == TRAP_OF ? 3 : 0),
            .cs = FLAT_KERNEL_CS,
            .address = (unsigned long)trap_entry(vector),
        };
        in_table[vector] = 1;
    }
    error = HYPERVISOR_set_trap_table(table);
    if (error)
        panic("set_trap_table: %pe", ERR(error));
    set_callback(CALLBACKTYPE_event, 0, TRAP_EVENT);
    set_callback(CALLBACKTYPE_failsafe, 0, TRAP_FAILSAFE);
#ifdef __x86_64__
    set_callback(CALLBACKTYPE_syscall, CALLBACKF_mask_events, TRAP_SYSCALL);
#else
    set_trap_dpl(USER_SYSCALL, 3);
#endif
    error = HYPERVISOR_stack_switch(FLAT_KERNEL_SS, (unsigned long)trap_stack_top);
    if (error)
        panic("stack_switch: %pe", ERR(error));
}

void dump_regs(const struct regs *regs)
{
#ifdef __x86_64__
    diag("rax %016lx rbx %016lx rcx %016lx", regs->rax, regs->rbx, regs->rcx);
    diag("rdx %016lx rsi %016lx rdi %016lx", regs->rdx, regs->rsi, regs->rdi);
    diag("rbp %016lx r8  %016lx r9  %016lx", regs->rbp, regs->r8, regs->r9);
    diag("r10 %016lx r11 %016lx r12 %016lx", regs->r10, regs->r11, regs->r12);
    diag("r13 %016lx r14 %016lx r15 %016lx", regs->r13, regs->r14, regs->r15);
    diag("rip %016lx rsp %016lx flags %08lx cs %04x ss %04lx", regs->rip, regs->rsp,
         regs->rflags, regs->cs, regs->ss);
#else
    diag("eax %08lx ebx %08lx ecx %08lx edx %08lx", regs->eax, regs->ebx, regs->ecx, regs->edx);
    diag("esi %08lx edi %08lx ebp %08lx esp %08lx", regs->esi, regs->edi, regs->ebp, regs->esp);
    diag("eip %08lx flags %08lx cs %04x ss %04lx", regs->eip, regs->eflags, regs->cs, regs->ss);
#endif
}

static void __attribute__((noreturn)) unwanted(const struct regs *regs)
{
    console_flush();
    dump_regs(regs);
    panic("%s (vector %lu) with error code %#lx at %#lx, cr2 %#lx, %s mode",
          trap_name((unsigned int)regs->vector), regs->vector, regs->error_code, regs->rip,
          regs->cr2, from_user(regs) ? "user" : "kernel");
}

void resume_kernel(struct regs *regs, const void *rip, unsigned long rsp, unsigned long rax)
{
    regs->rip = (unsigned long)rip;
    regs->rsp = rsp;
    regs->rax = rax;
#ifdef __x86_64__
    regs->cs = FLAT_KERNEL_CS & ~3U;
    regs->ss = FLAT_KERNEL_SS & ~3U;
#else
    regs->cs = FLAT_KERNEL_CS;
    regs->ss = FLAT_KERNEL_SS;
#endif
    /* Only the event mask survives: no TF, DF, NT or AC. */
    regs->rflags = 2 | (regs->rflags & FLAGS_IF);
}

void remember_fault(const struct regs *regs)
{
    last = *regs;
}

const struct regs *last_fault(void)
{
    return &last;
}

void trap_dispatch(struct regs *regs)
{
    unsigned int vector = (unsigned int)regs->vector;

#ifdef __i386__
    if (vector == USER_SYSCALL && from_user(regs) && !handlers[vector])
        regs->vector = vector = TRAP_SYSCALL;
#endif
    if (vector == TRAP_PF)
        regs->cr2 = shared_info->vcpu_info[0].arch.cr2;
    if (handlers[vector] && handlers[vector](regs))
        return;
    if (vector == TRAP_EVENT) {
        events_upcall();
        return;
    }
    if (from_user(regs)) {
        if (user_trap(regs))
            return;
    } else if (innermost && vector < TRAP_SYSCALL) {
        remember_fault(regs);
        resume_kernel(regs, catch_leave, innermost->rsp,
                      (unsigned long)FAULT(vector, regs->error_code));
        return;
    }
    unwanted(regs);
}

fault_t catch_fault(void (*function)(void *argument), void *argument)
{
    struct catch catch = {.outer = innermost};
    fault_t fault;

    innermost = &catch;
    fault = catch_run(function, argument, &catch.rsp);
    innermost = catch.outer;
    return fault;
}

/* --- probes --- */

struct probe {
    volatile void *va;
    unsigned long value;
};

static void read_byte(void *argument)
{
    uint8_t byte;

    __asm__ volatile("movb (%1), %0" : "=q"(byte) : "r"(argument));
}

static void write_byte(void *argument)
{
    __asm__ volatile("movb %1, (%0)" : : "r"(argument), "q"((uint8_t)0x5a) : "memory");
}

static void call(void *argument)
{
    __asm__ volatile("call *%0"
                     :
                     : "r"(argument)
#ifdef __x86_64__
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory",
                       "cc");
#else
                     : "eax", "ecx", "edx", "memory", "cc");
#endif
}

static void load(void *argument)
{
    struct probe *probe = argument;
    unsigned long value;

    __asm__ volatile("mov (%1), %0" : "=r"(value) : "r"(probe->va));
    probe->value = value;
}

static void store(void *argument)
{
    struct probe *probe = argument;

    __asm__ volatile("mov %1, (%0)" : : "r"(probe->va), "r"(probe->value) : "memory");
}

fault_t probe_read(const volatile void *va)
{
    return catch_fault(read_byte, (void *)va);
}

fault_t probe_write(volatile void *va)
{
    return catch_fault(write_byte, (void *)va);
}

fault_t probe_exec(const void *va)
{
    return catch_fault(call, (void *)va);
}

fault_t probe_load(const volatile void *va, unsigned long *value)
{
    struct probe probe = {.va = (volatile void *)va, .value = *value};
    fault_t fault = catch_fault(load, &probe);

    *value = probe.value;
    return fault;
}

fault_t probe_store(volatile void *va, unsigned long value)
{
    struct probe probe = {.va = va, .value = value};

    return catch_fault(store, &probe);
}
