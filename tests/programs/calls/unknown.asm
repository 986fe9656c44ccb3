; cowbird: description = numbers that are no hypercall answer -ENOSYS; other registers stay
;
; Only RAX, RCX and R11 change. Source: arch-x86/xen-x86_64.h; xen/arch/x86/pv/hypercall.c.

.include "lib/kernel.inc"

.macro try number:req
    mov  rax, \number
    call marked_call
    add  rax, ENOSYS
    ktap_result rax, "\number: -ENOSYS"
.endm

.text
main:
    xor  ebx, ebx
    ktap_plan 7
    try 11
    try 47
    try 63
    try 64
    try 0x100000000
    try 0xffffffffffffffff
    ktap_result rbx, "no register but RAX, RCX and R11 has changed"
    ret

; The hypercall RAX with a mark in each register; RBX counts those that have changed.
marked_call:
    mov  edi, 101
    mov  esi, 102
    mov  edx, 103
    mov  r10d, 104
    mov  r8d, 105
    mov  r9d, 106
    mov  r12d, 107
    mov  r13d, 108
    mov  r14d, 109
    mov  r15d, 110
    mov  ebp, 111
    syscall
    .macro check reg, mark
    cmp  \reg, \mark
    setne cl
    movzx ecx, cl
    add  ebx, ecx
    .endm
    check rdi, 101
    check rsi, 102
    check rdx, 103
    check r10, 104
    check r8, 105
    check r9, 106
    check r12, 107
    check r13, 108
    check r14, 109
    check r15, 110
    check rbp, 111
    ret
