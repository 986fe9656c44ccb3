; Shares a large region that is the same in every domain, then writes to all of it: the worst case.
;
; Page n holds contents n+1, whoever fills it. After sharing everything is checked, one quad of
; every page is written (a fault, a frame and a copy for each), and everything is checked again.
;
;   pages=N     size of the region (default 256)
;   rounds=N    how often to share it, write to it and check it (default 1)
;   mode=single one hypercall for each page; otherwise one for 256 pages

.include "lib/kernel.inc"
.include "lib/share.inc"

; R12 = pages, R13 = what was written last (0: nothing), R14 = rounds left, R15 = failures
.text
main:
    param r12, "pages", 256
    param r14, "rounds", 1
    xor  r13d, r13d
    xor  r15d, r15d
    ktap_plan 3
    test r12, r12
    jz   nothing
    mov  rdi, r12
    call area_map
    call fill
    call share_missing
    test eax, eax
    jnz  not_here

1:  param_is "mode=single"
    setnz dl
    movzx edx, dl
    mov  rdi, AREA
    mov  rsi, r12
    call share_pages
    call check
    add  r15, rax
    inc  r13
    call write
    call check
    add  r15, rax
    dec  r14
    jg   1b

    call share_report
    print "# copied "
    print_number [rip + cow_copies]
    print_line " pages"
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    mov  rax, [rip + share_answers]     ; each shared page was written once
    add  rax, [rip + share_answers + 8]
    sub  rax, [rip + cow_copies]
    ktap_result rax, "one copy for each shared page"
    ktap_result r15, "contents after each step"
    ret

not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "one copy for each shared page", "not shared"
    inc  r13
    call write
    call check
    ktap_result rax, "contents after each step"
    ret

nothing:
    fail "pages", "pages=0: nothing to do"

fill:
    xor  ebx, ebx
    mov  rbp, AREA
1:  mov  rdi, rbp
    lea  rsi, [rbx + 1]
    call pattern_fill
    add  rbp, PAGE
    inc  rbx
    cmp  rbx, r12
    jb   1b
    ret

; Writes R13 to one place in every page, a different one from page to page.
write:
    xor  ebx, ebx
    mov  rbp, AREA
1:  call place
    mov  [rbp + rdx], r13
    add  rbp, PAGE
    inc  rbx
    cmp  rbx, r12
    jb   1b
    ret

; RAX = quads that are not what they should be, in all pages.
check:
    push r15
    xor  r15d, r15d
    xor  ebx, ebx
    mov  rbp, AREA
1:  mov  rdx, -1
    test r13, r13
    jz   2f
    call place
2:  mov  rcx, r13
    mov  rdi, rbp
    lea  rsi, [rbx + 1]
    call pattern_check
    add  r15, rax
    add  rbp, PAGE
    inc  rbx
    cmp  rbx, r12
    jb   1b
    mov  rax, r15
    pop  r15
    ret

; RDX = byte offset of the quad that is written in page RBX.
place:
    imul edx, ebx, 24
    and  edx, PAGE - 8
    ret
