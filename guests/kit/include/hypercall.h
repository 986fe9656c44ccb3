/*
 * Hypercalls. hypercall(number, a1..a5) is the raw call; the HYPERVISOR_* functions have Xen's
 * names and arguments, and answer what Xen answers: 0 or more, or a negative errno.
 *
 * 64-bit ABI: number in RAX, arguments in RDI RSI RDX R10 R8, `syscall`; RCX and R11 are lost.
 * 32-bit ABI: number in EAX, arguments in EBX ECX EDX ESI EDI, `int $0x82`; nothing else is lost. A
 * number of 64 bits takes two arguments, the lower half first: HYPERCALL_U64().
 * hypercall_through_page() calls the stub in the hypercall page instead, which must do the same.
 */

#ifndef COWBIRD_HYPERCALL_H
#define COWBIRD_HYPERCALL_H

#include "share.h"
#include "xen.h"

#ifdef __x86_64__

static inline long hypercall5(unsigned long number, unsigned long a1, unsigned long a2,
                              unsigned long a3, unsigned long a4, unsigned long a5)
{
    register unsigned long r10 __asm__("r10") = a4;
    register unsigned long r8 __asm__("r8") = a5;
    long result = (long)number;

    __asm__ volatile("syscall"
                     : "+a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                     :
                     : "rcx", "r11", "memory", "cc");
    return result;
}

#define HYPERCALL_U64(value) (value)
#define STACK_POINTER "%%rsp" /* in the assembly of a program for both widths */

#else /* 32 bits */

static inline long hypercall5(unsigned long number, unsigned long a1, unsigned long a2,
                              unsigned long a3, unsigned long a4, unsigned long a5)
{
    long result = (long)number;

    __asm__ volatile("int $0x82"
                     : "+a"(result), "+b"(a1), "+c"(a2), "+d"(a3), "+S"(a4), "+D"(a5)
                     :
                     : "memory", "cc");
    return result;
}

#define STACK_POINTER "%%esp"
#define HYPERCALL_U64(value) (uint32_t)(value), (uint32_t)((uint64_t)(value) >> 32)

#endif

/* hypercall(number, ...): zero to five arguments of any scalar type. */
#define hypercall(...) HYPERCALL_ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define HYPERCALL_ARGS(n, a1, a2, a3, a4, a5, ...)                                             \
    hypercall5((unsigned long)(n), (unsigned long)(a1), (unsigned long)(a2),                   \
               (unsigned long)(a3), (unsigned long)(a4), (unsigned long)(a5))

extern char hypercall_page[4096];

static inline long hypercall_through_page(unsigned long number, unsigned long a1,
                                          unsigned long a2, unsigned long a3)
{
    long result;

#ifdef __x86_64__
    __asm__ volatile("call *%4"
                     : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3)
                     : "r"(hypercall_page + number * 32)
                     : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
#else
    __asm__ volatile("call *%4"
                     : "=a"(result), "+b"(a1), "+c"(a2), "+d"(a3)
                     : "r"(hypercall_page + number * 32)
                     : "memory", "cc");
#endif
    return result;
}

/* --- memory --- */

static inline long HYPERVISOR_update_va_mapping(unsigned long va, uint64_t entry,
                                                unsigned long flags)
{
    return hypercall(__HYPERVISOR_update_va_mapping, va, HYPERCALL_U64(entry), flags);
}

static inline long HYPERVISOR_update_va_mapping_otherdomain(unsigned long va, uint64_t entry,
                                                            unsigned long flags, domid_t dom)
{
    return hypercall(__HYPERVISOR_update_va_mapping_otherdomain, va, HYPERCALL_U64(entry), flags,
                     dom);
}

static inline long HYPERVISOR_mmu_update(const struct mmu_update *reqs, unsigned int count,
                                         unsigned int *done, unsigned int dom)
{
    return hypercall(__HYPERVISOR_mmu_update, reqs, count, done, dom);
}

static inline long HYPERVISOR_mmuext_op(const struct mmuext_op *ops, unsigned int count,
                                        unsigned int *done, unsigned int dom)
{
    return hypercall(__HYPERVISOR_mmuext_op, ops, count, done, dom);
}

static inline long HYPERVISOR_memory_op(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_memory_op, cmd, arg);
}

static inline long HYPERVISOR_multicall(struct multicall_entry *calls, unsigned int count)
{
    return hypercall(__HYPERVISOR_multicall, calls, count);
}

static inline long HYPERVISOR_vm_assist(unsigned int cmd, unsigned int type)
{
    return hypercall(__HYPERVISOR_vm_assist, cmd, type);
}

static inline long HYPERVISOR_make_ro_and_share(unsigned long va, unsigned long avl,
                                                unsigned long flags)
{
    return hypercall(__HYPERVISOR_make_ro_and_share, va, avl, flags);
}

static inline long HYPERVISOR_make_ro_and_share_batch(struct share_req *reqs, unsigned int count,
                                                      unsigned int *done, unsigned long avl)
{
    return hypercall(__HYPERVISOR_make_ro_and_share_batch, reqs, count, done, avl);
}

/* --- the CPU --- */

static inline long HYPERVISOR_set_trap_table(const struct trap_info *table)
{
    return hypercall(__HYPERVISOR_set_trap_table, table);
}

static inline long HYPERVISOR_callback_op(unsigned int cmd, const void *arg)
{
    return hypercall(__HYPERVISOR_callback_op, cmd, arg);
}

static inline long HYPERVISOR_set_callbacks(void *event, void *failsafe, void *syscall)
{
#ifdef __x86_64__
    return hypercall(__HYPERVISOR_set_callbacks, event, failsafe, syscall);
#else
    (void)syscall; /* has no callback of its own */
    return hypercall(__HYPERVISOR_set_callbacks, FLAT_KERNEL_CS, event, FLAT_KERNEL_CS, failsafe);
#endif
}

static inline long HYPERVISOR_stack_switch(unsigned long ss, unsigned long rsp)
{
    return hypercall(__HYPERVISOR_stack_switch, ss, rsp);
}

static inline long HYPERVISOR_set_gdt(const unsigned long *frames, unsigned int entries)
{
    return hypercall(__HYPERVISOR_set_gdt, frames, entries);
}

static inline long HYPERVISOR_update_descriptor(uint64_t maddr, uint64_t descriptor)
{
    return hypercall(__HYPERVISOR_update_descriptor, HYPERCALL_U64(maddr),
                     HYPERCALL_U64(descriptor));
}

static inline long HYPERVISOR_set_segment_base(unsigned int which, unsigned long base)
{
    return hypercall(__HYPERVISOR_set_segment_base, which, base);
}

static inline long HYPERVISOR_fpu_taskswitch(int set)
{
    return hypercall(__HYPERVISOR_fpu_taskswitch, set);
}

static inline long HYPERVISOR_set_debugreg(int reg, unsigned long value)
{
    return hypercall(__HYPERVISOR_set_debugreg, reg, value);
}

static inline long HYPERVISOR_get_debugreg(int reg)
{
    return hypercall(__HYPERVISOR_get_debugreg, reg);
}

static inline long HYPERVISOR_nmi_op(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_nmi_op, cmd, arg);
}

static inline long HYPERVISOR_physdev_op(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_physdev_op, cmd, arg);
}

/* --- scheduling, events, the rest --- */

static inline long HYPERVISOR_sched_op(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_sched_op, cmd, arg);
}

static inline long HYPERVISOR_vcpu_op(unsigned int cmd, unsigned int vcpu, void *arg)
{
    return hypercall(__HYPERVISOR_vcpu_op, cmd, vcpu, arg);
}

static inline long HYPERVISOR_set_timer_op(uint64_t nanoseconds_since_boot)
{
    return hypercall(__HYPERVISOR_set_timer_op, HYPERCALL_U64(nanoseconds_since_boot));
}

static inline long HYPERVISOR_event_channel_op(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_event_channel_op, cmd, arg);
}

static inline long HYPERVISOR_grant_table_op(unsigned int cmd, void *ops, unsigned int count)
{
    return hypercall(__HYPERVISOR_grant_table_op, cmd, ops, count);
}

static inline long HYPERVISOR_console_io(unsigned int cmd, unsigned int count, char *text)
{
    return hypercall(__HYPERVISOR_console_io, cmd, count, text);
}

static inline long HYPERVISOR_xen_version(unsigned int cmd, void *arg)
{
    return hypercall(__HYPERVISOR_xen_version, cmd, arg);
}

#endif
