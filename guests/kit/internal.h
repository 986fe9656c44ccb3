/* What the kit's own files share; not for programs. */

#ifndef COWBIRD_INTERNAL_H
#define COWBIRD_INTERNAL_H

#include "cowbird.h"

/* guest.ld, guest32.ld */
extern char image_start[], readonly_end[], user_start[], user_end[], image_end[];

/* start.S, entry.S, or start32.S, entry32.S */
extern char trap_stack_top[], user_stack_top[], trap_entries[], catch_leave[], user_leave[];
extern void user_begin(void);
extern fault_t catch_run(void (*function)(void *), void *argument, unsigned long *rsp);
extern long user_enter(struct regs *regs, unsigned long *rsp);

void kit_start(struct start_info *info, unsigned long boot_stack_top) __attribute__((noreturn));
void paging_start(unsigned long boot_stack_top);
void traps_start(void);
void trap_dispatch(struct regs *regs);

/* From trap_dispatch, for traps out of user mode: true if *regs now is where to go on. */
bool user_trap(struct regs *regs);

/* From trap_dispatch: an event upcall. */
void events_upcall(void);

/* A failed check that no line of the program made. */
void ktap_failed(const char *name, ...) KTAP_PRINTF(1);

/* For last_fault(). */
void remember_fault(const struct regs *regs);

/* Goes on in the kernel at `rip` with stack `rsp` and RAX = `rax`, in a clean state. */
void resume_kernel(struct regs *regs, const void *rip, unsigned long rsp, unsigned long rax);

#endif
