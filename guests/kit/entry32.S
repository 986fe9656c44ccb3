/*
 * 32 bits: entries for all vectors and callbacks, and the ways between kernel and user mode.
 *
 * Xen's bounce frame, upward from ESP: [error code], eip, cs and the saved event mask, eflags, and
 * only from user mode esp and ss; the failsafe callback has ds, es, fs, gs below eip. Each entry
 * turns that into struct regs (traps.h), with room for esp and ss in any case. The way back is the
 * iret hypercall, which also restores the event mask.
 */

#ifdef __i386__

#include "traps.h"
#include "xen-numbers.h"

    /* Offsets in struct regs. */
#define REGS_ebp 4
#define REGS_ebx 8
#define REGS_eax 12
#define REGS_ecx 16
#define REGS_edx 20
#define REGS_esi 24
#define REGS_edi 28
#define REGS_vector 32
#define REGS_error 36
#define REGS_eip 40
#define REGS_cs 44
#define REGS_eflags 48
#define REGS_esp 52
#define REGS_ss 56

    .text

    .macro entry vector:req
    .balign 16
    .if \vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17
    .else
    push $0
    .endif
    push $\vector
    jmp  trap_common
    .endm

    .balign 16
    .globl trap_entries
trap_entries:
    .set number, 0
    .rept TRAP_EVENT + 1
    entry number
    .set number, number + 1
    .endr
    .balign 16
failsafe_entry:                 /* TRAP_FAILSAFE: 16 * 258 bytes behind trap_entries */
    add  $16, %esp
    push $0
    push $TRAP_FAILSAFE
    /* falls through to trap_common */

trap_common:                    /* vector, error code, eip, cs, eflags, and perhaps esp, ss */
    testb $2, 12(%esp)          /* ring 3? */
    jnz  1f
    sub  $8, %esp               /* no: the five words move down to make room for two more */
    push %eax
    mov  12(%esp), %eax
    mov  %eax, 4(%esp)
    mov  16(%esp), %eax
    mov  %eax, 8(%esp)
    mov  20(%esp), %eax
    mov  %eax, 12(%esp)
    mov  24(%esp), %eax
    mov  %eax, 16(%esp)
    mov  28(%esp), %eax
    mov  %eax, 20(%esp)
    lea  32(%esp), %eax         /* ESP at the trap */
    mov  %eax, 24(%esp)
    mov  %ss, %eax
    mov  %eax, 28(%esp)
    pop  %eax
1:  push %edi
    push %esi
    push %edx
    push %ecx
    push %eax
    push %ebx
    push %ebp
    push $0                     /* cr2 */
    cld
    mov  %esp, %ebx
    and  $-16, %esp
    sub  $12, %esp
    push %ebx
    call trap_dispatch
    push %ebx
    push $0

    /* void trap_return(struct regs *regs) */
    .globl trap_return
    .type trap_return, @function
trap_return:
    mov  4(%esp), %ebp
    mov  REGS_ebx(%ebp), %ebx
    mov  REGS_ecx(%ebp), %ecx
    mov  REGS_edx(%ebp), %edx
    mov  REGS_esi(%ebp), %esi
    mov  REGS_edi(%ebp), %edi
    testb $2, REGS_cs(%ebp)
    jz   2f
    push REGS_ss(%ebp)
    push REGS_esp(%ebp)
    push REGS_eflags(%ebp)
    push REGS_cs(%ebp)
    push REGS_eip(%ebp)
    push REGS_eax(%ebp)
    mov  REGS_ebp(%ebp), %ebp
    mov  $__HYPERVISOR_iret, %eax
    int  $0x82
    ud2                         /* iret does not come back */

    /*
     * To the kernel iret takes four words off the very stack that it goes on with. They may lie
     * where *regs is, so everything is put aside first.
     */
2:  mov  REGS_esp(%ebp), %eax
    lea  -16(%eax), %esp
    mov  REGS_eip(%ebp), %eax
    mov  %eax, return_eip
    mov  REGS_cs(%ebp), %eax
    mov  %eax, return_cs
    mov  REGS_eflags(%ebp), %eax
    mov  %eax, return_eflags
    mov  REGS_eax(%ebp), %eax
    mov  REGS_ebp(%ebp), %ebp
    mov  %eax, (%esp)
    mov  return_eip, %eax
    mov  %eax, 4(%esp)
    mov  return_cs, %eax
    mov  %eax, 8(%esp)
    mov  return_eflags, %eax
    mov  %eax, 12(%esp)
    mov  $__HYPERVISOR_iret, %eax
    int  $0x82
    ud2

    .local return_eip, return_cs, return_eflags
    .comm return_eip, 4, 4
    .comm return_cs, 4, 4
    .comm return_eflags, 4, 4

    /* What must survive a call, saved below the stack pointer that goes to (\where). */
    .macro save_context where:req
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov  %esp, (\where)
    .endm

    .macro restore_context
    pop  %edi
    pop  %esi
    pop  %ebx
    pop  %ebp
    ret
    .endm

    /* fault_t catch_run(void (*function)(void *), void *argument, unsigned long *rsp) */
    .globl catch_run
    .type catch_run, @function
catch_run:
    mov  4(%esp), %ecx
    mov  8(%esp), %edx
    mov  12(%esp), %eax
    save_context %eax
    sub  $8, %esp
    push %edx
    call *%ecx
    add  $12, %esp
    mov  $-1, %eax              /* NO_FAULT */
    /* trap_dispatch comes here with ESP as saved and the fault in EAX */
    .globl catch_leave
catch_leave:
    restore_context

    /* long user_enter(struct regs *regs, unsigned long *rsp): returns at user_leave, with EAX as set */
    .globl user_enter
    .type user_enter, @function
user_enter:
    mov  4(%esp), %ecx
    mov  8(%esp), %eax
    save_context %eax
    push %ecx
    push $0
    jmp  trap_return
    .globl user_leave
user_leave:
    restore_context

    /* --- runs in user mode --- */

    /* EDI = function, ESI = its argument */
    .globl user_begin
user_begin:
    sub  $8, %esp
    push %esi
    call *%edi
    mov  %eax, %edi
    xor  %eax, %eax             /* system call 0: the end of user_run */
    int  $USER_SYSCALL
    ud2

    /* long user_syscall(long number, long a1, long a2, long a3) */
    .globl user_syscall
    .type user_syscall, @function
user_syscall:
    push %edi
    push %esi
    mov  12(%esp), %eax
    mov  16(%esp), %edi
    mov  20(%esp), %esi
    mov  24(%esp), %edx
    int  $USER_SYSCALL
    pop  %esi
    pop  %edi
    ret

#endif

    .section .note.GNU-stack, "", @progbits
