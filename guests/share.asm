; Shares the pages of its module and of patterns, checks every byte, writes to some, checks again.
;
; Pages come from the boot module (the contents of a real file, zero-padded; used where Xen mapped
; them) and from patterns: a quarter zeros, a quarter of three contents that repeat, the rest
; unique, but the same in every domain. Before sharing, a checksum of each page is taken.
;
;   patterns=N      pages of patterns (default 64)
;   mode=batch      one hypercall for 256 pages; otherwise one for each page
;   write=N         pages to write to, evenly spread (default: a quarter of all)
;   verbose         one line for each write

.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    call find_pages
    ktap_plan 4
    print "# pages: "
    print_number [xip + module_pages]
    print " of the module, "
    mov  xdi, [xip + all_pages]
    sub  xdi, [xip + module_pages]
    call print_decimal
    print_line " of patterns"
    call fill_patterns
    call take_checksums
    call share_missing
    test eax, eax
    jnz  not_here

    param_is "mode=batch"
    setz bl
    movzx ebx, bl
    mov  xdi, [xip + module]
    mov  xsi, [xip + module_pages]
    mov  edx, ebx
    call share_pages
    mov  xdi, AREA
    mov  xsi, [xip + all_pages]
    sub  xsi, [xip + module_pages]
    mov  edx, ebx
    call share_pages
    call share_report
    call share_surprises
    ktap_result xax, "every page shared or refused by policy"
    call check_all
    ktap_result xax, "contents after sharing"

    call write_some
    ktap_result xax, "one copy for each shared page written"
    call check_all
    ktap_result xax, "contents after writing"
    ret

not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "contents after sharing", "not shared"
    call write_some
    ktap_result xax, "one copy for each shared page written"
    call check_all
    ktap_result xax, "contents after writing"
    ret

; Finds the module and maps the pattern pages at AREA.
find_pages:
    mov  xax, [xip + start_info]
    mov  xcx, [xax + SI_mod_start]
    mov  [xip + module], xcx
    mov  xcx, [xax + SI_mod_len]
    add  xcx, PAGE - 1
    shr  xcx, 12
    mov  [xip + module_pages], xcx
    param xbx, "patterns", 64
    mov  xcx, [xip + module_pages]
    add  xcx, xbx
    mov  [xip + all_pages], xcx
    test xbx, xbx
    jz   1f
    mov  xdi, xbx
    call area_map
1:  mov  xdi, [xip + all_pages]
    test xdi, xdi
    jz   2f
    shl  xdi, 3
    call boot_alloc
    mov  [xip + checksums], xax
    ret
2:  fail "pages", "no module, and patterns=0: nothing to share"

; XAX = address of page XDI (of all).
page_at:
    mov  xax, xdi
    sub  xax, [xip + module_pages]
    jb   1f
    shl  xax, 12
    mov  xcx, AREA
    add  xax, xcx
    ret
1:  mov  xax, xdi
    shl  xax, 12
    add  xax, [xip + module]
    ret

fill_patterns:
    mov  xbx, [xip + module_pages]
1:  cmp  xbx, [xip + all_pages]
    jae  9f
    mov  xdi, xbx
    call page_at
    mov  xdi, xax
    mov  xsi, xbx
    sub  xsi, [xip + module_pages]      ; number of the pattern page
    mov  eax, esi
    and  eax, 3
    jz   2f                             ; ..00: zeros
    cmp  eax, 1
    jne  3f
    mov  xax, xsi                       ; ..01: one of three
    shr  xax, 2
    xor  edx, edx
    mov  ecx, 3
    div  xcx
    lea  xsi, [xdx + 1]
    jmp  3f
2:  xor  esi, esi
3:  cmp  xsi, 3
    jbe  4f
    add  xsi, 1000                      ; unique
4:  call pattern_fill
    inc  xbx
    jmp  1b
9:  ret

take_checksums:
    xor  ebx, ebx
1:  mov  xdi, xbx
    call page_at
    mov  xdi, xax
    mov  xdx, -1
    call checksum
    mov  xcx, [xip + checksums]
    mov  [xcx + xbx * WSIZE], xax
    inc  xbx
    cmp  xbx, [xip + all_pages]
    jb   1b
    ret

; XAX = number of pages whose checksum is not the one expected.
check_all:
    xor  ebx, ebx
    xor  ebp, ebp
1:  mov  xdi, xbx
    call page_at
    mov  xdi, xax
    mov  xdx, -1
    call checksum
    mov  xcx, [xip + checksums]
    cmp  xax, [xcx + xbx * WSIZE]
    je   2f
    inc  xbp
2:  inc  xbx
    cmp  xbx, [xip + all_pages]
    jb   1b
    mov  xax, xbp
    ret

; Writes one word in every so-manieth page. The checksum to expect is computed before, from what is
; there and what will be written. XAX = pages that were not copied but should have been, or the
; other way round.
write_some:
    sub  xsp, WSIZE * 4
    mov  xax, [xip + all_pages]
    shr  xax, 2
    param xbp, "write", xax
    mov  xword ptr [xsp], 0             ; failures
    mov  xword ptr [xsp + WSIZE], 0     ; pages written
    xor  ebx, ebx
1:  cmp  xbx, [xip + all_pages]
    jae  9f
    mov  xax, xbx                       ; page n is written if n*write/pages is not that of n+1
    imul xax, xbp
    xor  edx, edx
    div  xword ptr [xip + all_pages]
    mov  xcx, xax
    lea  xax, [xbx + 1]
    imul xax, xbp
    xor  edx, edx
    div  xword ptr [xip + all_pages]
    cmp  xax, xcx
    je   8f
    mov  xdi, xbx
    call page_at
    mov  xdi, xax
    mov  [xsp + WSIZE * 2], xax
    call pte_of
    mov  ecx, [xax]
    shr  ecx, 9                         ; PTE_COW
    and  ecx, 1
    add  xcx, [xip + cow_copies]
    mov  [xsp + WSIZE * 3], xcx         ; copies to expect

    imul edx, ebx, 40
    and  edx, PAGE - 8
    lea  xcx, [xbx + 0x5a5a5a5a]
    mov  xdi, [xsp + WSIZE * 2]
    call checksum
    mov  xsi, [xip + checksums]
    mov  [xsi + xbx * WSIZE], xax
    mov  xdi, [xsp + WSIZE * 2]
    mov  [xdi + xdx], xcx
    inc  xword ptr [xsp + WSIZE]
    mov  xax, [xip + cow_copies]
    cmp  xax, [xsp + WSIZE * 3]
    je   7f
    inc  xword ptr [xsp]
7:  param_is "verbose"
    jnz  8f
    print "# wrote page "
    print_number xbx
    print ", copies so far: "
    print_number [xip + cow_copies]
    call print_newline
8:  inc  xbx
    jmp  1b
9:  print "# wrote "
    print_number [xsp + WSIZE]
    print " pages, copied "
    print_number [xip + cow_copies]
    call print_newline
    mov  xax, [xsp]
    add  xsp, WSIZE * 4
    ret

.bss
module:         .zero 8                 ; the module's address
module_pages:   .zero 8                 ; and its pages
all_pages:      .zero 8
checksums:      .zero 8                 ; address of the list, one for each page
