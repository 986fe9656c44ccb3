; Shares, writes, unmaps, remaps and duplicates pages at random, checked against its own model.
;
; The model says for each page of a region what it must hold: the contents number (random.inc) and
; at most one quad that was written since. Contents are few, so that pages meet in the machine's
; content table, within the domain and between domains. Each step does one thing to one page, then
; checks another; at the end all pages are checked. Where nothing can be shared, the rest
; goes on all the same.
;
;   pages=N     size of the region (default 64)
;   steps=N     how long (default 2000)
;   seed=N      which run (default 1)

.include "lib/kernel.inc"
.include "lib/share.inc"

.equ CONTENTS, 12                       ; how many different contents there are

; The model's record of a page.
.equ M_mapped,      0                   ; 0: nothing is mapped there
.equ M_contents,    8
.equ M_offset,      16                  ; of the quad that was written, -1: none
.equ M_quad,        24                  ; its value
.equ M_SIZE,        32

; R12 = model, R13 = pages, R14 = steps left, R15 = failures.
; In a step: RBX = the page's address, RBP = its record.
.text
main:
    param r13, "pages", 64
    param r14, "steps", 2000
    param rdi, "seed", 1
    call random_seed
    xor  r15d, r15d
    ktap_plan 3
    test r13, r13
    jz   nothing
    call share_missing
    mov  [rip + missing], rax
    mov  rdi, r13
    call area_map
    mov  rdi, r13
    shl  rdi, 5                         ; M_SIZE
    call boot_alloc
    mov  r12, rax
    call begin

1:  test r14, r14
    jz   2f
    dec  r14
    call pick
    mov  edi, 16
    call random_below
    lea  rcx, [rip + actions]
    call [rcx + rax * 8]
    call pick
    call check
    jmp  1b

2:  call share_report
    call report
    cmp  qword ptr [rip + missing], 0
    jne  4f
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    jmp  5f
4:  ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
5:  ktap_result r15, "contents after each step"
    xor  r15d, r15d
    mov  r14, r13
3:  dec  r14
    mov  rdi, r14
    call take
    call check
    test r14, r14
    jnz  3b
    ktap_result r15, "contents in the end"
    ret

nothing:
    fail "pages", "pages=0: nothing to do"

; What a step does, one of sixteen at random.
.rodata
.align 8
actions:
    .rept 6
    .quad act_share
    .endr
    .rept 4
    .quad act_write
    .endr
    .quad act_rewrite, act_rewrite
    .quad act_unmap, act_unmap
    .quad act_duplicate, act_duplicate
.text

; Fills all pages and the model.
begin:
    push r14
    mov  r14, r13
1:  dec  r14
    mov  rdi, r14
    call take
    mov  qword ptr [rbp + M_mapped], 1
    call rewrite
    test r14, r14
    jnz  1b
    pop  r14
    ret

; Picks a page at random.
pick:
    mov  rdi, r13
    call random_below
    mov  rdi, rax
; RBX, RBP = address and record of page RDI.
take:
    mov  rbx, rdi
    shl  rbx, 12
    mov  rax, AREA
    add  rbx, rax
    mov  rbp, rdi
    shl  rbp, 5
    add  rbp, r12
    ret

; Gives the page new contents, all of it.
rewrite:
    mov  edi, CONTENTS
    call random_below
    mov  [rbp + M_contents], rax
    mov  qword ptr [rbp + M_offset], -1
    mov  rdi, rbx
    mov  rsi, rax
    jmp  pattern_fill

; Compares the page with the model; what is not mapped must not be mapped.
check:
    cmp  qword ptr [rbp + M_mapped], 0
    je   1f
    mov  rdi, rbx
    mov  rsi, [rbp + M_contents]
    mov  rdx, [rbp + M_offset]
    mov  rcx, [rbp + M_quad]
    call pattern_check
    add  r15, rax
    ret
1:  mov  rdi, rbx
    call mfn_at
    cmp  rax, INVALID
    je   2f
    inc  r15
2:  ret

act_share:
    cmp  qword ptr [rbp + M_mapped], 0
    je   act_map
    mov  rdi, rbx
    mov  esi, PTE_COW
    jmp  share_page

; Writes one quad: one of two values, in one of two places, so that equal pages arise again.
act_write:
    cmp  qword ptr [rbp + M_mapped], 0
    je   act_map
    cmp  qword ptr [rbp + M_offset], -1
    jne  1f
    mov  edi, 2
    call random_below
    imul eax, eax, PAGE - 8
    mov  [rbp + M_offset], rax
1:  mov  edi, 2
    call random_below
    mov  [rbp + M_quad], rax
    mov  rdx, [rbp + M_offset]
    mov  [rbx + rdx], rax
    inc  qword ptr [rip + writes]
    ret

act_rewrite:
    cmp  qword ptr [rbp + M_mapped], 0
    je   act_map
    inc  qword ptr [rip + rewrites]
    jmp  rewrite

act_unmap:
    cmp  qword ptr [rbp + M_mapped], 0
    je   act_map
    mov  qword ptr [rbp + M_mapped], 0
    inc  qword ptr [rip + unmaps]
    xor  esi, esi

; Makes RSI the page's entry. If a frame of our own was mapped it goes back to Xen; a shared one
; loses one reference by itself.
replace:
    push rsi
    mov  rdi, rbx
    call mfn_at
    push rax
    call pfn_at                         ; RDI was kept
    push rax
    mov  rsi, [rsp + 16]
    call map_page
    add  r15, rax
    pop  rax
    pop  rdi
    pop  rsi
    cmp  rax, INVALID
    je   1f
    call frame_free
    add  r15, rax
1:  ret

; Maps a new frame, with new contents.
act_map:
    call frame_alloc
    test rax, rax
    jz   1f
    shl  rax, 12
    lea  rsi, [rax + PTE_DATA]
    mov  rdi, rbx
    call map_page
    add  r15, rax
    mov  qword ptr [rbp + M_mapped], 1
    inc  qword ptr [rip + maps]
    jmp  rewrite
1:  fail "memory", "out of memory: Xen has no frame for a page"

; Maps the shared frame of another page here, read-only, over what was here: a fork of one page.
act_duplicate:
    push rbx
    push rbp
    call pick
    mov  rdi, rbx
    call pte_of
    mov  rsi, [rax]
    mov  rdx, rbp                       ; the other's record
    pop  rbp
    pop  rbx
    mov  eax, esi
    and  eax, PTE_P | PTE_RW | PTE_COW
    cmp  eax, PTE_P | PTE_COW
    jne  act_share                      ; the other is not shared
    .irp field, M_contents, M_offset, M_quad
    mov  rax, [rdx + \field]
    mov  [rbp + \field], rax
    .endr
    mov  qword ptr [rbp + M_mapped], 1
    inc  qword ptr [rip + duplicates]
    mov  rax, PTE_FRAME
    and  rsi, rax
    or   rsi, PTE_READ | PTE_COW
    jmp  replace

report:
    .irp what, writes, rewrites, unmaps, maps, duplicates
    print "# \what: "
    print_number [rip + \what]
    call print_newline
    .endr
    print "# copied "
    print_number [rip + cow_copies]
    print_line " pages"
    ret

.bss
.align 8
writes:         .zero 8
rewrites:       .zero 8
unmaps:         .zero 8
maps:           .zero 8
duplicates:     .zero 8
missing:        .zero 8                 ; 1 if nothing can be shared here
