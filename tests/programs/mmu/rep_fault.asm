; cowbird: description = rep movsb that runs into a page it may not write: counters are exact
;
; The instruction faults in the middle; RCX, RSI and RDI say how far it came, so that it can go on
; where it stopped. Source: Intel SDM volume 2, REP; 3A, 6.5.

.include "lib/kernel.inc"

.text
main:
    ktap_plan 7
    mov  edi, PAGE * 2
    call boot_alloc
    mov  rbx, rax                       ; two pages, the second of which becomes read-only
    lea  r12, [rbx + PAGE]
    lea  rdi, [rip + own_traps]
    hypercall set_trap_table
    mov  rdi, r12
    call mfn_at
    mov  r13, rax
    shl  r13, 12
    mov  rdi, r12
    lea  rsi, [r13 + PTE_P + PTE_A]
    call map_page
    ktap_result rax, "the second page is read-only"

    lea  rsi, [rip + text]
    lea  rdi, [r12 - 5]
    mov  ecx, 12
    rep movsb                           ; the handler makes the page writable and goes on
    ktap_result rcx, "it comes to its end"
    mov  rax, [rip + seen_error]
    sub  rax, 3
    ktap_result rax, "after one fault: present, write"
    mov  rax, [rip + seen_rcx]
    sub  rax, 7
    ktap_result rax, "with 7 of 12 bytes left"
    mov  rax, [rip + seen_rdi]
    sub  rax, r12
    ktap_result rax, "RDI at the second page"
    lea  rax, [rip + text + 5]
    sub  rax, [rip + seen_rsi]
    ktap_result rax, "RSI at the sixth byte"
    xor  ebp, ebp
    lea  rsi, [rip + text]
    lea  rdi, [r12 - 5]
    mov  ecx, 12
    repe cmpsb
    setne bpl
    ktap_result rbp, "all was copied"
    ret

page_fault:
    pop  rcx
    pop  r11
    push 14
    save_registers
    mov  eax, [rsp + F_error]
    mov  [rip + seen_error], rax
    mov  [rip + seen_rcx], rcx
    mov  [rip + seen_rdi], rdi
    mov  [rip + seen_rsi], rsi
    mov  rdi, r12
    lea  rsi, [r13 + PTE_DATA]
    call map_page
    jmp  trap_return

.rodata
text:           .asciz "twelve bytes"

.data
.align 8
own_traps:
    .byte 14, 0
    .word FLAT_CS, 0, 0
    .quad page_fault
    .quad 0, 0
seen_error:     .quad 0
seen_rcx:       .quad 0
seen_rdi:       .quad 0
seen_rsi:       .quad 0
