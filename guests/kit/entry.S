/*
 * 64 bits: entries for all vectors and callbacks, and the ways between kernel and user mode.
 *
 * Xen's bounce frame, upward from RSP: rcx, r11, [error code], rip, cs and the saved event mask,
 * rflags, rsp, ss; the failsafe callback has ds, es, fs, gs behind r11. Each entry turns that into
 * struct regs (traps.h). The way back is always the iret hypercall: both modes run in ring 3, so
 * iretq would not do.
 */

#ifdef __x86_64__

#include "traps.h"
#include "xen-numbers.h"


    .text

    .macro entry vector:req
    .balign 16
    pop  %rcx
    pop  %r11
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
    pop  %rcx
    pop  %r11
    add  $32, %rsp
    push $0
    push $TRAP_FAILSAFE
    jmp  trap_common

trap_common:
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %rax
    push %r8
    push %r9
    push %r10
    push %r11
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push $0                     /* cr2 */
    cld
    mov  %rsp, %rdi
    mov  %rsp, %rbx
    and  $-16, %rsp
    call trap_dispatch
    mov  %rbx, %rdi

    /* void trap_return(struct regs *regs) */
    .globl trap_return
    .type trap_return, @function
trap_return:
    lea  8(%rdi), %rsp
    pop  %r15
    pop  %r14
    pop  %r13
    pop  %r12
    pop  %rbp
    pop  %rbx
    pop  %r11
    pop  %r10
    pop  %r9
    pop  %r8
    pop  %rax
    pop  %rcx
    pop  %rdx
    pop  %rsi
    pop  %rdi
    /* struct iret_context takes the places of vector and error code and two words below */
    mov  %rcx, (%rsp)
    movq $0, 8(%rsp)
    push %r11
    push %rax
    mov  $__HYPERVISOR_iret, %eax
    syscall
    ud2                         /* iret does not come back */

    /* What must survive a call, saved below the stack pointer that goes to (\where). */
    .macro save_context where:req
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov  %rsp, (\where)
    .endm

    .macro restore_context
    pop  %r15
    pop  %r14
    pop  %r13
    pop  %r12
    pop  %rbx
    pop  %rbp
    ret
    .endm

    /* fault_t catch_run(void (*function)(void *), void *argument, uint64_t *rsp) */
    .globl catch_run
    .type catch_run, @function
catch_run:
    save_context %rdx
    mov  %rdi, %rax
    mov  %rsi, %rdi
    sub  $8, %rsp
    call *%rax
    add  $8, %rsp
    mov  $-1, %eax              /* NO_FAULT */
    /* trap_dispatch comes here with RSP as saved and the fault in RAX */
    .globl catch_leave
catch_leave:
    restore_context

    /* long user_enter(struct regs *regs, uint64_t *rsp): returns at user_leave, with RAX as set */
    .globl user_enter
    .type user_enter, @function
user_enter:
    save_context %rsi
    jmp  trap_return
    .globl user_leave
user_leave:
    restore_context

    /* --- runs in user mode --- */

    /* RDI = function, RSI = its argument */
    .globl user_begin
user_begin:
    mov  %rdi, %rax
    mov  %rsi, %rdi
    call *%rax
    mov  %rax, %rdi
    xor  %eax, %eax             /* system call 0: the end of user_run */
    syscall
    ud2

    /* long user_syscall(long number, long a1, long a2, long a3) */
    .globl user_syscall
    .type user_syscall, @function
user_syscall:
    mov  %rdi, %rax
    mov  %rsi, %rdi
    mov  %rdx, %rsi
    mov  %rcx, %rdx
    syscall
    ret

#endif

    .section .note.GNU-stack, "", @progbits
