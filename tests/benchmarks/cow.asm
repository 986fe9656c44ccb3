; Shares `pages=` pages in batches and, with `write`, stores once to each of them. Nothing else:
; the difference of two runs is the cost of the copy-on-write cycles alone.

.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    param r12, "pages", 256
    ktap_plan 1
    mov  rdi, r12
    call area_map
    mov  rdi, AREA
    mov  rsi, r12
    mov  edx, 1
    call share_pages
    param_is "write"
    jnz  2f
    mov  rbp, AREA
1:  mov  [rbp], r12
    add  rbp, PAGE
    dec  r12
    jnz  1b
2:  ktap_result 0, "done"
    ret
