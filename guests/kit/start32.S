/*
 * 32 bits: the first instructions, the stacks, the hypercall page, and the ELF notes by which Xen
 * knows that this is a PV kernel with PAE page tables and where to enter it.
 */

#ifdef __i386__

#include "xen-numbers.h"

    /* Entry from Xen: ESI = start_info, ESP = top of the boot stack, where free memory begins. */
    .section .text.start, "ax", @progbits
    .globl _start
    .type _start, @function
_start:
    cld
    mov  $FLAT_USER_DS, %eax    /* in ring 1 it serves as well, and iret to ring 3 lets it be */
    mov  %eax, %ds
    mov  %eax, %es
    mov  %esp, %eax
    lea  kernel_stack_top, %esp
    xor  %ebp, %ebp
    push %eax
    push %esi
    call kit_start
    ud2
    .size _start, . - _start

    /* Xen writes one stub of 32 bytes for each hypercall. */
    .section .text.hypercall_page, "ax", @progbits
    .balign 4096
    .globl hypercall_page
    .type hypercall_page, @object
hypercall_page:
    .skip 4096
    .size hypercall_page, 4096

    .section .bss.page_aligned, "aw", @nobits
    .balign 4096
    .skip 4 * 4096
kernel_stack_top:
    .globl trap_stack_top
    .skip 4 * 4096              /* for traps out of user mode */
trap_stack_top:

    .section .user_data, "aw", @progbits
    .balign 4096
    .globl user_stack_top
    .skip 4 * 4096
user_stack_top:

    .macro note type:req, directive:req, value:vararg
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:  \directive \value
2:  .balign 4
    .endm

    .section .note.Xen, "a", @note
    .balign 4
    note XEN_ELFNOTE_GUEST_OS, .asciz, "cowbird-kit"
    note XEN_ELFNOTE_GUEST_VERSION, .asciz, "1"
    note XEN_ELFNOTE_LOADER, .asciz, "generic"
    note XEN_ELFNOTE_XEN_VERSION, .asciz, "xen-3.0"
    note XEN_ELFNOTE_VIRT_BASE, .long, VIRT_BASE
    note XEN_ELFNOTE_ENTRY, .long, _start
    note XEN_ELFNOTE_HYPERCALL_PAGE, .long, hypercall_page
    note XEN_ELFNOTE_PAE_MODE, .asciz, "yes"
    note XEN_ELFNOTE_FEATURES, .asciz, "pae_pgdir_above_4gb"

#endif

    .section .note.GNU-stack, "", @progbits
