; cowbird: description = a batch of 200 pages from assembly: zeros and repeated contents, then a write to each
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
    mov  r12, AREA
    xor  ebx, ebx
1:  mov  rdi, rbx                       ; page n holds n mod 4
    shl  rdi, 12
    mov  eax, ebx
    and  eax, 3
    mov  [r12 + rdi + 64], rax
    inc  ebx
    cmp  ebx, PAGES
    jb   1b

    mov  rdi, r12
    mov  esi, PAGES
    mov  edx, 1
    call share_pages
    mov  rbx, [rip + share_answers]
    sub  rbx, 4
    ktap_result rbx, "four contents are entered"
    mov  rbx, [rip + share_answers + 8]
    sub  rbx, PAGES - 4
    ktap_result rbx, "all others are merged"

    xor  ebx, ebx
2:  mov  rdi, rbx
    shl  rdi, 12
    mov  [r12 + rdi], rbx
    inc  ebx
    cmp  ebx, PAGES
    jb   2b
    mov  rbx, [rip + cow_copies]
    sub  rbx, PAGES
    ktap_result rbx, "each write makes a copy"

    xor  ebx, ebx
    xor  ebp, ebp
    xor  r13d, r13d
3:  mov  rdi, rbx
    shl  rdi, 12
    mov  rax, [r12 + rdi]
    sub  rax, rbx
    or   rbp, rax
    mov  eax, ebx
    and  eax, 3
    sub  rax, [r12 + rdi + 64]
    or   r13, rax
    inc  ebx
    cmp  ebx, PAGES
    jb   3b
    ktap_result rbp, "each page has what was written to it"
    ktap_result r13, "and what it had before"
    ret
