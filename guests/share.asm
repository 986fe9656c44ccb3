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

; Registers that `main` and its steps keep: R12 = module's address, R13 = its pages,
; R14 = pages in all, R15 = checksums.
.text
main:
    call find_pages
    ktap_plan 4
    print "# pages: "
    print_number r13
    print " of the module, "
    mov  rdi, r14
    sub  rdi, r13
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
    mov  rdi, r12
    mov  rsi, r13
    mov  edx, ebx
    call share_pages
    mov  rdi, AREA
    mov  rsi, r14
    sub  rsi, r13
    mov  edx, ebx
    call share_pages
    call share_report
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    call check_all
    ktap_result rax, "contents after sharing"

    call write_some
    ktap_result rax, "one copy for each shared page written"
    call check_all
    ktap_result rax, "contents after writing"
    ret

not_here:
    ktap_skip "every page shared or refused by policy", "no make_ro_and_share here"
    ktap_skip "contents after sharing", "not shared"
    call write_some
    ktap_result rax, "one copy for each shared page written"
    call check_all
    ktap_result rax, "contents after writing"
    ret

; Sets R12-R15 and maps the pattern pages at AREA.
find_pages:
    mov  rax, [rip + start_info]
    mov  r12, [rax + SI_mod_start]
    mov  r13, [rax + SI_mod_len]
    add  r13, PAGE - 1
    shr  r13, 12
    param rbx, "patterns", 64
    lea  r14, [r13 + rbx]
    test rbx, rbx
    jz   1f
    mov  rdi, rbx
    call area_map
1:  test r14, r14
    jz   2f
    lea  rdi, [r14 * 8]
    call boot_alloc
    mov  r15, rax
    ret
2:  fail "pages", "no module, and patterns=0: nothing to share"

; RAX = address of page RDI (0..R14-1).
page_at:
    mov  rax, rdi
    sub  rax, r13
    jb   1f
    shl  rax, 12
    mov  rcx, AREA
    add  rax, rcx
    ret
1:  mov  rax, rdi
    shl  rax, 12
    add  rax, r12
    ret

fill_patterns:
    mov  rbx, r13
1:  cmp  rbx, r14
    jae  9f
    mov  rdi, rbx
    call page_at
    mov  rdi, rax
    mov  rsi, rbx
    sub  rsi, r13                       ; number of the pattern page
    mov  eax, esi
    and  eax, 3
    jz   2f                             ; ..00: zeros
    cmp  eax, 1
    jne  3f
    mov  rax, rsi                       ; ..01: one of three
    shr  rax, 2
    xor  edx, edx
    mov  ecx, 3
    div  rcx
    lea  rsi, [rdx + 1]
    jmp  3f
2:  xor  esi, esi
3:  cmp  rsi, 3
    jbe  4f
    add  rsi, 1000                      ; unique
4:  call pattern_fill
    inc  rbx
    jmp  1b
9:  ret

take_checksums:
    xor  ebx, ebx
1:  mov  rdi, rbx
    call page_at
    mov  rdi, rax
    mov  rdx, -1
    call checksum
    mov  [r15 + rbx * 8], rax
    inc  rbx
    cmp  rbx, r14
    jb   1b
    ret

; RAX = number of pages whose checksum is not the one expected.
check_all:
    xor  ebx, ebx
    xor  ebp, ebp
1:  mov  rdi, rbx
    call page_at
    mov  rdi, rax
    mov  rdx, -1
    call checksum
    cmp  rax, [r15 + rbx * 8]
    je   2f
    inc  rbp
2:  inc  rbx
    cmp  rbx, r14
    jb   1b
    mov  rax, rbp
    ret

; Writes one quad in every so-manieth page. The checksum to expect is computed before, from what is
; there and what will be written. RAX = pages that were not copied but should have been, or the
; other way round.
write_some:
    sub  rsp, 32
    mov  rax, r14
    shr  rax, 2
    param rbp, "write", rax
    mov  qword ptr [rsp], 0             ; failures
    mov  qword ptr [rsp + 8], 0         ; pages written
    xor  ebx, ebx
1:  cmp  rbx, r14
    jae  9f
    mov  rax, rbx                       ; page n is written if n*write/pages is not that of n+1
    imul rax, rbp
    xor  edx, edx
    div  r14
    mov  rcx, rax
    lea  rax, [rbx + 1]
    imul rax, rbp
    xor  edx, edx
    div  r14
    cmp  rax, rcx
    je   8f
    mov  rdi, rbx
    call page_at
    mov  rdi, rax
    mov  [rsp + 16], rax
    call pte_of
    mov  ecx, [rax]
    shr  ecx, 9                         ; PTE_COW
    and  ecx, 1
    add  rcx, [rip + cow_copies]
    mov  [rsp + 24], rcx                ; copies to expect

    imul edx, ebx, 40
    and  edx, PAGE - 8
    lea  rcx, [rbx + 0x5a5a5a5a]
    mov  rdi, [rsp + 16]
    call checksum
    mov  [r15 + rbx * 8], rax
    mov  rdi, [rsp + 16]
    mov  [rdi + rdx], rcx
    inc  qword ptr [rsp + 8]
    mov  rax, [rip + cow_copies]
    cmp  rax, [rsp + 24]
    je   7f
    inc  qword ptr [rsp]
7:  param_is "verbose"
    jnz  8f
    print "# wrote page "
    print_number rbx
    print ", copies so far: "
    print_number [rip + cow_copies]
    call print_newline
8:  inc  rbx
    jmp  1b
9:  print "# wrote "
    print_number [rsp + 8]
    print " pages, copied "
    print_number [rip + cow_copies]
    call print_newline
    mov  rax, [rsp]
    add  rsp, 32
    ret
