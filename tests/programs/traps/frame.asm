; cowbird: description = the bounce frame in plain assembly, without the library's entry code
;
; A handler that looks at each word of its frame and goes on behind the ud2 by the iret hypercall
; (arch-x86/xen-x86_64.h): rcx, r11, rip, cs | mask << 32, rflags, rsp, ss from RSP upward.

.include "lib/kernel.inc"

.text
main:
    ktap_plan 5
    lea  rdi, [rip + table]
    hypercall set_trap_table
    mov  rbx, rsp
    mov  ecx, 0x1234
    mov  r11d, 0x5678
here:
    ud2
    ktap_result [rip + wrong], "rcx and r11 are the first two words"
    ktap_result [rip + wrong + 8], "rip is at the ud2"
    ktap_result [rip + wrong + 16], "cs has RPL 0"
    ktap_result [rip + wrong + 24], "rsp is as it was"
    xor  rbx, rsp
    ktap_result rbx, "iret goes on behind the ud2 with the same stack"
    ret

handler:
    cmp  qword ptr [rsp], 0x1234
    setne al
    cmp  qword ptr [rsp + 8], 0x5678
    setne dl
    or   al, dl
    movzx eax, al
    mov  [rip + wrong], rax
    lea  rax, [rip + here]
    sub  rax, [rsp + 16]
    mov  [rip + wrong + 8], rax
    mov  eax, [rsp + 24]
    sub  eax, FLAT_CS & ~3
    mov  [rip + wrong + 16], rax
    mov  rax, rbx
    sub  rax, [rsp + 40]
    mov  [rip + wrong + 24], rax
    add  qword ptr [rsp + 16], 2
    pop  rcx
    pop  r11
    push 0                              ; struct iret_context: flags, rcx, r11, rax below rip
    push rcx
    push r11
    push rax
    mov  eax, HC_iret
    syscall
    ud2

.rodata
.align 16
table:
    .byte 6, 4
    .word FLAT_CS, 0, 0
    .quad handler
    .quad 0, 0

.bss
.align 8
wrong:  .zero 32
