; Shares its own code while it runs from it, so that many domains have one copy of the kernel.
;
; Everything from the first instruction to the end of the constants is shared, page by page, by
; code that is itself being shared. Sixteen pages of that are parts of a computation that reads
; their own bytes: its result before and after must be the same. Nothing writes to code, so the
; pages are not marked for copying: a write would be a crash.

.include "lib/kernel.inc"
.include "lib/share.inc"

.equ PARTS, 16

; Part \number of the computation, a page of its own: mixes the bytes of this page into XAX.
.macro part number:req
    .align 4096
part_\number:
    mov  edx, (\number * 0x2545f491 + 0x14057b7e) & 0x7fffffff
    lea  xsi, [xip + part_\number]
    mov  ecx, PAGE / WSIZE
1:  xor  xax, [xsi]
    imul xax, xdx
    rol  xax, \number + 3
    add  xsi, WSIZE
    loop 1b
    add  xax, \number
    ret
    .fill 960, 4, 0x10001 * (\number + 1)
.endm

.text
main:
    ktap_plan 3
    call compute
    mov  [xip + before], xax
    call share_missing
    test eax, eax
    jnz  not_here

    lea  xbx, [xip + _start]            ; .text and .rodata: one run of pages
    lea  xbp, [xip + constants_end - 1]
1:  mov  xdi, xbx
    xor  esi, esi
    call share_page
    inc  xword ptr [xip + pages]
    add  xbx, PAGE
    cmp  xbx, xbp
    jbe  1b

    call share_report
    print "# pages of code and constants: "
    print_number [xip + pages]
    call print_newline
    call share_surprises
    ktap_result xax, "every page shared or refused by policy"
    call read_only
    ktap_result xax, "shared pages are read-only"
    jmp  2f
not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "shared pages are read-only", "not shared"
2:  call compute
    mov  xbx, xax
    print "# result "
    mov  xdi, xbx
    call print_hex
    call print_newline
    sub  xbx, [xip + before]
    ktap_result xbx, "the code computes what it did before"
    ret

; XAX = result of all parts.
compute:
    push xbx
    push xbp
    xor  eax, eax
    lea  xbx, [xip + parts]
    mov  ebp, PARTS
1:  call [xbx]
    add  xbx, WSIZE
    dec  ebp
    jnz  1b
    pop  xbp
    pop  xbx
    ret

; XAX = pages from _start to the end of the constants that were shared and are still writable.
read_only:
    push xbx
    push xbp
    push 0                              ; [xsp]: their number
    lea  xbx, [xip + _start]
    lea  xbp, [xip + constants_end - 1]
1:  mov  xdi, xbx
    call pfn_at
    cmp  xax, INVALID                   ; has a PFN: refused, and still our own
    jne  2f
    call pte_of
    mov  eax, [xax]
    and  eax, PTE_RW
    shr  eax, 1
    add  [xsp], xax
2:  add  xbx, PAGE
    cmp  xbx, xbp
    jbe  1b
    pop  xax
    pop  xbp
    pop  xbx
    ret

    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    part \number
    .endr
    .align 4096

.rodata
.align 8
parts:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .xword part_\number
    .endr
    .align 4096
constants_end:

.bss
before:         .zero 8                 ; what the code computed before it was shared
pages:          .zero 8
