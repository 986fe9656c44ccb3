/*
 * User mode: functions of the program run in an address space of their own.
 *
 * 64 bits: the user's L4 maps, at the addresses where they are linked: .text and .rodata read-only, and the
 * data marked __user_data together with a stack, writable. The kernel's data is not mapped, so that
 * a function touching it faults. 32 bits: kernel and user have the same tables, where the same pages
 * are open to the user (PTE_U) and the kernel's data is not; user_l4() is the current table, and what
 * user_map() does the kernel sees too. user_map() adds pages. Any function whose data is constant, local
 * or __user_data may run there; it may call no hypercall, printf, ok and such included.
 */

#ifndef COWBIRD_USER_H
#define COWBIRD_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "paging.h"
#include "traps.h"

#define __user_data __attribute__((section(".user_data")))

/*
 * Runs function(argument) in user mode. NO_FAULT: it returned, *value (if not NULL) is its result.
 * Otherwise the fault that no handler took; last_fault() has the registers.
 */
fault_t user_run(long (*function)(long argument), long argument, long *value);

/* One access in user mode, as probe_* do in the kernel's. */
fault_t user_read(const volatile void *va);
fault_t user_write(volatile void *va);
fault_t user_exec(const void *va);

/* Maps a page in the user's address space: 0 or a negative errno. */
long user_map(const volatile void *va, pte_t entry);

/* The user's L4 (made at the first call; user_run and the others use it from then on). */
mfn_t user_l4(void);

/* Another L4 for the user: MMUEXT_NEW_USER_BASEPTR; 32 bits: for both. */
long user_l4_load(mfn_t l4);

/* A new L4 with the same mappings as the first one has at its making (tables are not shared). */
mfn_t user_l4_new(void);

/*
 * In user mode: a system call. The kernel's side is the TRAP_SYSCALL handler (set_handler): number
 * in regs->rax, arguments in rdi, rsi, rdx; the result goes into regs->rax. Number 0 is the end
 * of user_run. Without a handler, or if it returns false, the answer is -ENOSYS.
 */
long user_syscall(long number, long a1, long a2, long a3);

#endif
