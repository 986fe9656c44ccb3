; Shares, writes, unmaps, remaps and duplicates pages at random, checked against its own model.
;
; The model says for each page of a region what it must hold: the contents number (random.inc) and
; at most one word that was written since. Contents are few, so that pages meet in the machine's
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
.equ M_contents,    WSIZE
.equ M_offset,      WSIZE * 2           ; of the word that was written, -1: none
.equ M_word,        WSIZE * 3           ; its value
.equ M_SIZE,        WSIZE * 4

; In a step: XBX = the page's address, XBP = its record.
.text
main:
    param [xip + pages], "pages", 64
    param [xip + steps], "steps", 2000
    param xdi, "seed", 1
    call random_seed
    ktap_plan 3
    cmp  xword ptr [xip + pages], 0
    je   nothing
    call share_missing
    mov  [xip + missing], xax
    mov  xdi, [xip + pages]
    call area_map
    imul xdi, [xip + pages], M_SIZE
    call boot_alloc
    mov  [xip + model], xax
    call begin

1:  cmp  xword ptr [xip + steps], 0
    je   2f
    dec  xword ptr [xip + steps]
    call pick
    mov  edi, 16
    call random_below
    lea  xcx, [xip + actions]
    call xword ptr [xcx + xax * WSIZE]
    call pick
    call check
    jmp  1b

2:  call share_report
    call report
    cmp  xword ptr [xip + missing], 0
    jne  4f
    call share_surprises
    ktap_result xax, "every page shared or refused by policy"
    jmp  5f
4:  ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
5:  ktap_result [xip + failures], "contents after each step"
    mov  xword ptr [xip + failures], 0
    mov  xax, [xip + pages]
    mov  [xip + left], xax
3:  dec  xword ptr [xip + left]
    mov  xdi, [xip + left]
    call take
    call check
    cmp  xword ptr [xip + left], 0
    jne  3b
    ktap_result [xip + failures], "contents in the end"
    ret

nothing:
    fail "pages", "pages=0: nothing to do"

; What a step does, one of sixteen at random.
.rodata
.align 8
actions:
    .rept 6
    .xword act_share
    .endr
    .rept 4
    .xword act_write
    .endr
    .xword act_rewrite, act_rewrite
    .xword act_unmap, act_unmap
    .xword act_duplicate, act_duplicate
.text

; Fills all pages and the model.
begin:
    mov  xax, [xip + pages]
    mov  [xip + left], xax
1:  dec  xword ptr [xip + left]
    mov  xdi, [xip + left]
    call take
    mov  xword ptr [xbp + M_mapped], 1
    call rewrite
    cmp  xword ptr [xip + left], 0
    jne  1b
    ret

; Picks a page at random.
pick:
    mov  xdi, [xip + pages]
    call random_below
    mov  xdi, xax
; XBX, XBP = address and record of page XDI.
take:
    mov  xbx, xdi
    shl  xbx, 12
    mov  xax, AREA
    add  xbx, xax
    imul xbp, xdi, M_SIZE
    add  xbp, [xip + model]
    ret

; Gives the page new contents, all of it.
rewrite:
    mov  edi, CONTENTS
    call random_below
    mov  [xbp + M_contents], xax
    mov  xword ptr [xbp + M_offset], -1
    mov  xdi, xbx
    mov  xsi, xax
    jmp  pattern_fill

; Compares the page with the model; what is not mapped must not be mapped.
check:
    cmp  xword ptr [xbp + M_mapped], 0
    je   1f
    mov  xdi, xbx
    mov  xsi, [xbp + M_contents]
    mov  xdx, [xbp + M_offset]
    mov  xcx, [xbp + M_word]
    call pattern_check
    add  [xip + failures], xax
    ret
1:  mov  xdi, xbx
    call mfn_at
    cmp  xax, INVALID
    je   2f
    inc  xword ptr [xip + failures]
2:  ret

act_share:
    cmp  xword ptr [xbp + M_mapped], 0
    je   act_map
    mov  xdi, xbx
    mov  esi, PTE_COW
    jmp  share_page

; Writes one word: one of two values, in one of two places, so that equal pages arise again.
act_write:
    cmp  xword ptr [xbp + M_mapped], 0
    je   act_map
    cmp  xword ptr [xbp + M_offset], -1
    jne  1f
    mov  edi, 2
    call random_below
    imul eax, eax, PAGE - WSIZE
    mov  [xbp + M_offset], xax
1:  mov  edi, 2
    call random_below
    mov  [xbp + M_word], xax
    mov  xdx, [xbp + M_offset]
    mov  [xbx + xdx], xax
    inc  xword ptr [xip + writes]
    ret

act_rewrite:
    cmp  xword ptr [xbp + M_mapped], 0
    je   act_map
    inc  xword ptr [xip + rewrites]
    jmp  rewrite

act_unmap:
    cmp  xword ptr [xbp + M_mapped], 0
    je   act_map
    mov  xword ptr [xbp + M_mapped], 0
    inc  xword ptr [xip + unmaps]
    xor  esi, esi
    xor  edx, edx

; Maps the frame XSI with the flags EDX in the page's place. If a frame of our own was mapped it
; goes back to Xen; a shared one loses one reference by itself.
replace:
    push xsi
    push xdx
    mov  xdi, xbx
    call mfn_at
    pop  xdx
    pop  xsi
    push xax                            ; the frame that was there
    push xsi
    push xdx
    call pfn_at                         ; XDI was kept
    pop  xdx
    pop  xsi
    push xax                            ; and its PFN, if it is ours
    call map_frame
    add  [xip + failures], xax
    pop  xax
    pop  xdi
    cmp  xax, INVALID
    je   1f
    call frame_free
    add  [xip + failures], xax
1:  ret

; Maps a new frame, with new contents.
act_map:
    call frame_alloc
    test xax, xax
    jz   1f
    mov  xsi, xax
    mov  edx, PTE_DATA
    mov  xdi, xbx
    call map_frame
    add  [xip + failures], xax
    mov  xword ptr [xbp + M_mapped], 1
    inc  xword ptr [xip + maps]
    jmp  rewrite
1:  fail "memory", "out of memory: Xen has no frame for a page"

; Maps the shared frame of another page here, read-only, over what was here: a fork of one page.
act_duplicate:
    push xbx
    push xbp
    call pick
    mov  xdi, xbx
    call pte_of
    mov  ecx, [xax]
    frame_at xax
    mov  xsi, xax
    mov  xdx, xbp                       ; the other's record
    pop  xbp
    pop  xbx
    and  ecx, PTE_P | PTE_RW | PTE_COW
    cmp  ecx, PTE_P | PTE_COW
    jne  act_share                      ; the other is not shared
    .irp field, M_contents, M_offset, M_word
    mov  xax, [xdx + \field]
    mov  [xbp + \field], xax
    .endr
    mov  xword ptr [xbp + M_mapped], 1
    inc  xword ptr [xip + duplicates]
    mov  edx, PTE_READ | PTE_COW
    jmp  replace

report:
    .irp what, writes, rewrites, unmaps, maps, duplicates
    print "# \what: "
    print_number [xip + \what]
    call print_newline
    .endr
    print "# copied "
    print_number [xip + cow_copies]
    print_line " pages"
    ret

.bss
.align 8
model:          .zero 8                 ; address of the records
pages:          .zero 8
steps:          .zero 8                 ; that are left
left:           .zero 8                 ; pages of a pass over all
failures:       .zero 8
writes:         .zero 8
rewrites:       .zero 8
unmaps:         .zero 8
maps:           .zero 8
duplicates:     .zero 8
missing:        .zero 8                 ; 1 if nothing can be shared here
