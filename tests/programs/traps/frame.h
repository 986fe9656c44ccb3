/*
 * A trap entry of the program's own, which looks at the bounce frame exactly as Xen built it.
 *
 * raw_run(function, argument) calls function; when a trap arrives at raw_entry (set_trap_entry)
 * the frame is copied to `raw` and raw_run returns. Nothing is returned from by iret.
 */

#ifndef FRAME_H
#define FRAME_H

#include "cowbird.h"

struct raw {
    unsigned long rsp, rcx, r11, rflags; /* the registers in which the handler was entered */
    unsigned long word[8];               /* the frame, upward from rsp */
    unsigned long count;                 /* traps seen */
};

struct raw raw;
extern char raw_entry[];
void raw_run(void (*function)(void *), void *argument);

#ifdef __x86_64__
#define FRAME_RIP 2 /* of the words, where there is no error code; then the others follow */
#define KERNEL_CS_PUSHED (FLAT_KERNEL_CS & ~3UL) /* Xen clears the RPL of a kernel's CS */

__asm__(".text\n"
        ".globl raw_entry\n"
        "raw_entry:\n"
        "    mov   %rsp, raw(%rip)\n"
        "    mov   %rcx, raw+8(%rip)\n"
        "    mov   %r11, raw+16(%rip)\n"
        "    pushfq\n"
        "    popq  raw+24(%rip)\n"
        "    popq  raw+32(%rip)\n"
        "    popq  raw+40(%rip)\n"
        "    popq  raw+48(%rip)\n"
        "    popq  raw+56(%rip)\n"
        "    popq  raw+64(%rip)\n"
        "    popq  raw+72(%rip)\n"
        "    popq  raw+80(%rip)\n"
        "    popq  raw+88(%rip)\n"
        "    incq  raw+96(%rip)\n"
        "    mov   raw_stack(%rip), %rsp\n"
        "    cld\n"
        "    jmp   1f\n"
        ".globl raw_run\n"
        "raw_run:\n"
        "    push  %rbp\n"
        "    push  %rbx\n"
        "    push  %r12\n"
        "    push  %r13\n"
        "    push  %r14\n"
        "    push  %r15\n"
        "    mov   %rsp, raw_stack(%rip)\n"
        "    mov   %rdi, %rax\n"
        "    mov   %rsi, %rdi\n"
        "    sub   $8, %rsp\n"
        "    call  *%rax\n"
        "    add   $8, %rsp\n"
        "1:  pop   %r15\n"
        "    pop   %r14\n"
        "    pop   %r13\n"
        "    pop   %r12\n"
        "    pop   %rbx\n"
        "    pop   %rbp\n"
        "    ret\n"
        ".bss\n"
        ".balign 8\n"
        "raw_stack: .skip 8\n"
        ".text\n");
#else
#define FRAME_RIP 0
#define KERNEL_CS_PUSHED FLAT_KERNEL_CS

/* r11 holds ESP as raw_run began. The words are copied: fewer may lie on the stack. */
__asm__(".text\n"
        ".globl raw_entry\n"
        "raw_entry:\n"
        "    mov   %esp, raw\n"
        "    mov   %ecx, raw+4\n"
        "    mov   %esp, %esi\n"
        "    mov   raw_stack, %esp\n"
        "    mov   %esp, raw+8\n"
        "    pushf\n"
        "    pop   raw+12\n"
        "    cld\n"
        "    mov   $raw+16, %edi\n"
        "    mov   $8, %ecx\n"
        "    rep   movsl\n"
        "    incl  raw+48\n"
        "    jmp   1f\n"
        ".globl raw_run\n"
        "raw_run:\n"
        "    push  %ebp\n"
        "    push  %ebx\n"
        "    push  %esi\n"
        "    push  %edi\n"
        "    mov   %esp, raw_stack\n"
        "    mov   20(%esp), %eax\n"
        "    mov   24(%esp), %ecx\n"
        "    push  %ecx\n"
        "    call  *%eax\n"
        "    add   $4, %esp\n"
        "1:  pop   %edi\n"
        "    pop   %esi\n"
        "    pop   %ebx\n"
        "    pop   %ebp\n"
        "    ret\n"
        ".bss\n"
        ".balign 4\n"
        "raw_stack: .skip 4\n"
        ".text\n");
#endif

static inline uint8_t event_mask(void)
{
    return *(volatile uint8_t *)&shared_info->vcpu_info[0].evtchn_upcall_mask;
}

static inline void set_event_mask(uint8_t mask)
{
    *(volatile uint8_t *)&shared_info->vcpu_info[0].evtchn_upcall_mask = mask;
}

#define FLAGS_CF 0x1UL
#define FLAGS_DF 0x400UL
#define FLAGS_IOPL 0x3000UL
#define FLAGS_NT 0x4000UL
#define FLAGS_RF 0x10000UL
#define FLAGS_AC 0x40000UL
#define FLAGS_ID 0x200000UL

#endif
