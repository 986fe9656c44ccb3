; Shares a large region that is the same in every domain, then writes to all of it: the worst case.
;
; Page n holds contents n+1, whoever fills it. After sharing everything is checked, one word of
; every page is written (a fault, a frame and a copy for each), and everything is checked again.
;
;   pages=N     size of the region (default 256)
;   rounds=N    how often to share it, write to it and check it (default 1)
;   mode=single one hypercall for each page; otherwise one for 256 pages

.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    param [xip + pages], "pages", 256
    param [xip + rounds], "rounds", 1
    ktap_plan 3
    cmp  xword ptr [xip + pages], 0
    jz   nothing
    mov  xdi, [xip + pages]
    call area_map
    call fill
    call share_missing
    test eax, eax
    jnz  not_here

1:  param_is "mode=single"
    setnz dl
    movzx edx, dl
    mov  xdi, AREA
    mov  xsi, [xip + pages]
    call share_pages
    call check
    add  [xip + failures], xax
    inc  xword ptr [xip + written]
    call write
    call check
    add  [xip + failures], xax
    dec  xword ptr [xip + rounds]
    jg   1b

    call share_report
    print "# copied "
    print_number [xip + cow_copies]
    print_line " pages"
    call share_surprises
    ktap_result xax, "every page shared or refused by policy"
    mov  xax, [xip + share_answers]     ; each shared page was written once
    add  xax, [xip + share_answers + WSIZE]
    sub  xax, [xip + cow_copies]
    ktap_result xax, "one copy for each shared page"
    ktap_result [xip + failures], "contents after each step"
    ret

not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "one copy for each shared page", "not shared"
    inc  xword ptr [xip + written]
    call write
    call check
    ktap_result xax, "contents after each step"
    ret

nothing:
    fail "pages", "pages=0: nothing to do"

fill:
    xor  ebx, ebx
    mov  xbp, AREA
1:  mov  xdi, xbp
    lea  xsi, [xbx + 1]
    call pattern_fill
    add  xbp, PAGE
    inc  xbx
    cmp  xbx, [xip + pages]
    jb   1b
    ret

; Writes R13 to one place in every page, a different one from page to page.
write:
    xor  ebx, ebx
    mov  xbp, AREA
1:  call place
    mov  xax, [xip + written]
    mov  [xbp + xdx], xax
    add  xbp, PAGE
    inc  xbx
    cmp  xbx, [xip + pages]
    jb   1b
    ret

; XAX = words that are not what they should be, in all pages.
check:
    xor  ebx, ebx
    mov  xbp, AREA
    push xbx                            ; [xsp]: their number
1:  mov  xdx, -1
    mov  xcx, [xip + written]
    test xcx, xcx
    jz   2f
    call place
2:  mov  xdi, xbp
    lea  xsi, [xbx + 1]
    call pattern_check
    add  [xsp], xax
    add  xbp, PAGE
    inc  xbx
    cmp  xbx, [xip + pages]
    jb   1b
    pop  xax
    ret

; XDX = byte offset of the word that is written in page XBX.
place:
    imul edx, ebx, 24
    and  edx, PAGE - 8
    ret

.bss
pages:          .zero 8
written:        .zero 8                 ; what was written last (0: nothing)
rounds:         .zero 8                 ; that are left
failures:       .zero 8
