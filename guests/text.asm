; Shares its own code while it runs from it, so that many domains have one copy of the kernel.
;
; Everything from the first instruction to the end of the constants is shared, page by page, by
; code that is itself being shared. Sixteen pages of that are parts of a computation that reads
; their own bytes: its result before and after must be the same. Nothing writes to code, so the
; pages are not marked for copying: a write would be a crash.

.include "lib/kernel.inc"
.include "lib/share.inc"

.equ PARTS, 16

; Part \number of the computation, a page of its own: mixes the bytes of this page into RAX.
.macro part number:req
    .align 4096
part_\number:
    mov  edx, (\number * 0x2545f491 + 0x14057b7e) & 0x7fffffff
    lea  rsi, [rip + part_\number]
    mov  ecx, PAGE / 8
1:  xor  rax, [rsi]
    imul rax, rdx
    rol  rax, \number + 3
    add  rsi, 8
    loop 1b
    add  rax, \number
    ret
    .fill 960, 4, 0x10001 * (\number + 1)
.endm

.text
main:
    ktap_plan 3
    call compute
    mov  r12, rax
    call share_missing
    test eax, eax
    jnz  not_here

    lea  rbx, [rip + _start]            ; .text and .rodata: one run of pages
    lea  rbp, [rip + constants_end - 1]
    xor  r13d, r13d                     ; pages
1:  mov  rdi, rbx
    xor  esi, esi
    call share_page
    inc  r13
    add  rbx, PAGE
    cmp  rbx, rbp
    jbe  1b

    call share_report
    print "# pages of code and constants: "
    print_number r13
    call print_newline
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    call read_only
    ktap_result rax, "shared pages are read-only"
    jmp  2f
not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "shared pages are read-only", "not shared"
2:  call compute
    mov  r13, rax
    print "# result "
    mov  rdi, r13
    call print_hex
    call print_newline
    sub  r13, r12
    ktap_result r13, "the code computes what it did before"
    ret

; RAX = result of all parts.
compute:
    push rbx
    push rbp
    xor  eax, eax
    lea  rbx, [rip + parts]
    mov  ebp, PARTS
1:  call [rbx]
    add  rbx, 8
    dec  ebp
    jnz  1b
    pop  rbp
    pop  rbx
    ret

; RAX = pages from _start to the end of the constants that were shared and are still writable.
read_only:
    push rbx
    push rbp
    push r12
    xor  r12d, r12d
    lea  rbx, [rip + _start]
    lea  rbp, [rip + constants_end - 1]
1:  mov  rdi, rbx
    call pfn_at
    cmp  rax, INVALID                   ; has a PFN: refused, and still our own
    jne  2f
    call pte_of
    mov  eax, [rax]
    and  eax, PTE_RW
    shr  eax, 1
    add  r12, rax
2:  add  rbx, PAGE
    cmp  rbx, rbp
    jbe  1b
    mov  rax, r12
    pop  r12
    pop  rbp
    pop  rbx
    ret

    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    part \number
    .endr
    .align 4096

.rodata
.align 8
parts:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .quad part_\number
    .endr
    .align 4096
constants_end:
