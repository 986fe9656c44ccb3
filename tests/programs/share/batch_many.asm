; cowbird: description = a batch of 200 pages from assembly: zeros and repeated contents, then a write to each
; cowbird: environments = pv64, pv32
; cowbird: oracle = no: needs make_ro_and_share
; cowbird: memory = 8M

.equ PAGES, 200
.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    ktap_plan 5
    mov  edi, PAGES
    call area_map
    xor  ebx, ebx
1:  mov  xdi, xbx                       ; page n holds n mod 4
    shl  xdi, 12
    mov  xcx, AREA
    add  xdi, xcx
    mov  eax, ebx
    and  eax, 3
    mov  [xdi + 64], xax
    inc  ebx
    cmp  ebx, PAGES
    jb   1b

    mov  xdi, AREA
    mov  esi, PAGES
    mov  edx, 1
    call share_pages
    mov  xbx, [xip + share_answers]
    sub  xbx, 4
    ktap_result xbx, "four contents are entered"
    mov  xbx, [xip + share_answers + WSIZE]
    sub  xbx, PAGES - 4
    ktap_result xbx, "all others are merged"

    xor  ebx, ebx
2:  mov  xdi, xbx
    shl  xdi, 12
    mov  xcx, AREA
    add  xdi, xcx
    mov  [xdi], xbx
    inc  ebx
    cmp  ebx, PAGES
    jb   2b
    mov  xbx, [xip + cow_copies]
    sub  xbx, PAGES
    ktap_result xbx, "each write makes a copy"

    xor  ebx, ebx
    xor  ebp, ebp
    mov  xword ptr [xip + others], 0
3:  mov  xdi, xbx
    shl  xdi, 12
    mov  xcx, AREA
    add  xdi, xcx
    mov  xax, [xdi]
    sub  xax, xbx
    or   xbp, xax
    mov  eax, ebx
    and  eax, 3
    sub  xax, [xdi + 64]
    or   [xip + others], xax
    inc  ebx
    cmp  ebx, PAGES
    jb   3b
    ktap_result xbp, "each page has what was written to it"
    ktap_result [xip + others], "and what it had before"
    ret

.bss
others:     .zero 8
