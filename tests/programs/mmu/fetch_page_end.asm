; cowbird: description = an instruction that reaches over a page end into what cannot be fetched
;
; Five bytes (mov eax, imm32) begin two bytes before the end of a page. If the second page cannot
; be fetched, #PF comes with CR2 at the second page and RIP at the instruction; one that ends
; exactly at the page end runs. Source: Intel SDM 3A, 4.7 and 6.15 (#PF: CR2 is what failed).

.include "lib/kernel.inc"

.equ PTE_NX, 0x8000000000000000
.equ PF_I,   0x10

.text
main:
    ktap_plan 8
    mov  edi, PAGE * 2
    call boot_alloc
    mov  rbx, rax                       ; two pages, one after the other
    lea  r12, [rbx + PAGE]              ; the second
    mov  rdi, r12
    call mfn_at
    mov  r13, rax
    shl  r13, 12                        ; its frame's address
    lea  rdi, [rip + own_traps]
    hypercall set_trap_table
    ktap_result rax, "a page fault handler"

    mov  dword ptr [rbx + PAGE - 2], 0x1234b8   ; mov eax, 0x....1234
    mov  byte ptr [r12 + 2], 0xc3
    lea  rdi, [rbx + PAGE - 2]
    call try
    ktap_result rbp, "over the page end, both there"

    mov  rdi, r12
    xor  esi, esi
    call map_page
    lea  rdi, [rbx + PAGE - 2]
    call try
    sub  rbp, PF_I
    ktap_result rbp, "the second absent: fetch"
    mov  rdi, [rip + seen_cr2]
    sub  rdi, r12
    ktap_result rdi, "CR2: the second page"
    mov  rdi, [rip + seen_rip]
    sub  rdi, rbx
    sub  rdi, PAGE - 2
    ktap_result rdi, "RIP: the instruction"

    mov  byte ptr [rbx + PAGE - 1], 0xc3
    lea  rdi, [rbx + PAGE - 1]
    call try
    ktap_result rbp, "one that ends at the page end"

    mov  rdi, r12
    mov  rsi, PTE_NX + PTE_DATA
    or   rsi, r13
    call map_page
    mov  byte ptr [rbx + PAGE - 1], 0x34
    lea  rdi, [rbx + PAGE - 2]
    call try
    sub  rbp, PF_I + PTE_P
    ktap_result rbp, "the second NX: present, fetch"
    mov  rdi, [rip + seen_cr2]
    sub  rdi, r12
    ktap_result rdi, "CR2: the second page"
    ret

; Calls RDI. RBP = 0, or the error code of the page fault that came.
try:
    xor  ebp, ebp
    mov  [rip + resume_rsp], rsp
    call rdi
    ret

; The handler: notes what happened and leaves `try`.
page_fault:
    pop  rcx
    pop  r11
    pop  rbp                            ; the error code
    pop  rax
    mov  [rip + seen_rip], rax
    mov  rax, [rip + shared_info + SHARED_cr2]
    mov  [rip + seen_cr2], rax
    mov  rsp, [rip + resume_rsp]
    ret

.data
.align 8
own_traps:
    .byte 14, 0
    .word FLAT_CS, 0, 0
    .quad page_fault
    .quad 0, 0
seen_rip:       .quad 0
seen_cr2:       .quad 0
resume_rsp:     .quad 0
