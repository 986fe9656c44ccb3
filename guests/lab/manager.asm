; The page-table manager that Peri Hankey proposed: a domain with a privilege over the memory of its
; group. Kernels of the group (lab/manager.inc) ask it for every change of their workload's tables;
; it makes the change by a foreign update, and so it knows which page of which client holds which
; block of which file. It is nobody's kernel: faults, processes and contents stay the clients'
; business.
;
;   what it knows       the same block is mapped a second time without a look at its contents; a
;                       forked child gets its parent's pages
;   what it cannot know pages that a program has filled: shared by make_ro_and_share, on behalf of
;                       the client
;
; It maps every block that it knows once itself, read-only, so that the frame cannot go and come
; back as another one's. It counts which entries map it; with the last of them it lets go.

.include "lib/kernel.inc"
.include "lab/serve.inc"

.equ MAX_KNOWN,     1536                ; blocks
.equ WINDOWS,       64                  ; tables of clients that are mapped at one time
.equ TABLES,        AREA + 0x600000     ; where: behind the blocks, each of which has a page of AREA

; struct known
.equ K_block,       0                   ; 0: not in use
.equ K_frame,       8
.equ K_entries,     16                  ; of clients, that map it
.equ K_SHIFT,       5

.text
main:
    ktap_plan 1
    mov  rdi, AREA + 0x800000
    call serve_tables
    call serve_start
    xor  edi, edi
    call serve_release
    call serve
    .irp what, served, updates, loads, known_again, shared, refused
    print "# lab \what="
    print_number [rip + \what]
    call print_newline
    .endr
    ktap_result [rip + refused], "every update was allowed"
    ret

; One request: RBX = client, RBP = request. EAX = status.
handle:
    mov  r12, [rbp + Q_a]               ; read once: the client may change them at any time
    mov  r13, [rbp + Q_b]
    mov  r14, [rbp + Q_c]
    cmp  eax, OP_map
    je   do_map
    cmp  eax, OP_load
    je   do_load
    cmp  eax, OP_filled
    je   do_filled
    cmp  eax, OP_fork
    je   do_fork
    cmp  eax, OP_exit
    je   do_exit
    mov  eax, -ENOSYS
    ret

; The entry R12 becomes R13.
do_map:
    call frame_in
    push rax
    mov  rsi, r13
    call update
    pop  rdi
    test rax, rax
    jnz  1f
    call let_go
    xor  eax, eax
1:  ret

; Block R13 is wanted at entry R12, with flags R14.
do_load:
    inc  qword ptr [rip + loads]
    call known_block
    test rax, rax
    jz   1f
    call map_known
    test rax, rax
    jnz  1f
    inc  eax
1:  ret

; Maps the known block RAX at entry R12, with flags R14. RAX = 0 or a negative errno.
map_known:
    push r15
    mov  r15, rax
    call frame_in
    push rax
    mov  rsi, [r15 + K_frame]
    shl  rsi, 12
    and  r14d, PTE_US                   ; what else may be in it is not the client's to say
    lea  rsi, [rsi + r14 + PTE_READ + PTE_COW]
    call update
    pop  rdi
    test rax, rax
    jnz  1f
    inc  qword ptr [r15 + K_entries]
    inc  qword ptr [rip + known_again]
    call let_go
    xor  eax, eax
1:  pop  r15
    ret

; The page at entry R12 is filled, with block R13 if that is not 0.
do_filled:
    test r13, r13
    jz   1f
    call known_block
    test rax, rax
    jz   1f
    call map_known
    test rax, rax
    jnz  9f
    mov  eax, 2
9:  ret
1:  lea  rdi, [rip + requests]
    mov  [rdi], r12
    mov  qword ptr [rdi + 8], -EINVAL
    mov  esi, 1
    call share
    movsxd r15, dword ptr [rip + requests + 8]
    test r15, r15
    js   2f
    call frame_in
    mov  rdi, rax
    call hold
2:  mov  rax, r15
    ret

; All of the table R12, from entry 1 to R14, is shared and copied into the table R13, which is not
; validated yet.
do_fork:
    cmp  r14, 512
    ja   refuse
    mov  rdi, r12
    call table_at
    test rax, rax
    jz   refuse
    push rbp
    mov  rbp, rax
    lea  rdi, [rip + requests]
    xor  esi, esi
    mov  r15d, 1
1:  cmp  r15, r14
    jae  2f
    mov  eax, [rbp + r15 * 8]
    and  eax, PTE_P | PTE_COW
    cmp  eax, PTE_P
    jne  3f
    mov  rax, r12
    shl  rax, 12
    lea  rax, [rax + r15 * 8]
    mov  [rdi], rax
    mov  qword ptr [rdi + 8], -EINVAL
    add  rdi, 16
    inc  esi
3:  inc  r15d
    jmp  1b
2:  push rsi
    lea  rdi, [rip + requests]
    test esi, esi
    jz   4f
    call share
4:  pop  rcx                            ; what was merged may be a block that is known
    lea  rdx, [rip + requests]
5:  test ecx, ecx
    jz   6f
    push rcx
    push rdx
    cmp  dword ptr [rdx + 8], 0
    jl   7f
    mov  rax, [rdx]
    and  eax, PAGE - 1
    add  rax, rbp
    call frame_of
    mov  rdi, rax
    call count_entry
7:  pop  rdx
    pop  rcx
    add  rdx, 16
    dec  ecx
    jmp  5b
6:  lea  rdi, [rip + requests]          ; now the child's entries
    xor  esi, esi
    mov  r15d, 1
1:  cmp  r15, r14
    jae  2f
    mov  rax, [rbp + r15 * 8]
    mov  ecx, eax
    and  ecx, PTE_P | PTE_COW | PTE_RW
    cmp  ecx, PTE_P | PTE_COW
    jne  3f
    mov  rcx, r13
    shl  rcx, 12
    lea  rcx, [rcx + r15 * 8]
    mov  [rdi], rcx
    mov  [rdi + 8], rax
    add  rdi, 16
    inc  esi
3:  inc  r15d
    jmp  1b
2:  push rsi
    call update_all
    pop  rcx
    pop  rbp
    test rax, rax
    jnz  9f
    push rcx
    lea  rdx, [rip + requests]
    mov  r15d, ecx
8:  test r15d, r15d
    jz   8f
    push rdx
    lea  rax, [rdx + 8]
    call frame_of
    mov  rdi, rax
    call count_entry
    pop  rdx
    add  rdx, 16
    dec  r15d
    jmp  8b
8:  pop  rax
9:  ret

; The entries 1 to R14 of the table R12 are about to go, and the table with them.
do_exit:
    cmp  r14, 512
    ja   refuse
    mov  rdi, r12
    call table_at
    test rax, rax
    jz   refuse
    mov  r13, rax
    mov  r15d, 1
1:  cmp  r15, r14
    jae  2f
    test byte ptr [r13 + r15 * 8], PTE_P
    jz   3f
    lea  rax, [r13 + r15 * 8]
    call frame_of
    mov  rdi, rax
    call let_go
3:  inc  r15d
    jmp  1b
2:  mov  rdi, r13
    xor  esi, esi
    call map_own
    mov  rax, TABLES
    sub  r13, rax
    shr  r13, 12
    lea  rcx, [rip + windows]
    mov  qword ptr [rcx + r13 * 8], 0
    xor  eax, eax
    ret

refuse:
    inc  qword ptr [rip + refused]
    mov  rax, -EINVAL
    ret

; -- blocks ----------------------------------------------------------------------------------------

; RAX = what is known of block R13, 0 if nothing.
known_block:
    lea  rdi, [rip + by_block]
    mov  rsi, r13
    jmp  known_in
; RAX = what is known of frame RDI, 0 if nothing.
known_frame:
    mov  rsi, rdi
    lea  rdi, [rip + by_frame]
known_in:
    test rsi, rsi
    jz   1f
    call map_find
    cmp  qword ptr [rax], 0
    je   1f
    mov  rax, [rax + 8]
    ret
1:  xor  eax, eax
    ret

; An entry more maps the frame RDI, if that is one of those that are known.
count_entry:
    call known_frame
    test rax, rax
    jz   1f
    inc  qword ptr [rax + K_entries]
1:  ret

; An entry that mapped the frame RDI does not any more.
let_go:
    call known_frame
    test rax, rax
    jz   1f
    dec  qword ptr [rax + K_entries]
    jnz  1f
    push rbx
    mov  rbx, rax
    lea  rdi, [rip + by_block]
    mov  rsi, [rbx + K_block]
    call map_remove
    lea  rdi, [rip + by_frame]
    mov  rsi, [rbx + K_frame]
    call map_remove
    mov  qword ptr [rbx + K_block], 0
    mov  rdi, rbx
    call page_of
    xor  esi, esi
    call map_own
    pop  rbx
1:  ret

; RDI = page of AREA that belongs to what is known at RDI.
page_of:
    lea  rax, [rip + known]
    sub  rdi, rax
    shl  rdi, 12 - K_SHIFT
    mov  rax, AREA
    add  rdi, rax
    ret

; Frame RDI is shared and holds block R13 (0: none that has a name). It is kept, if it is not yet;
; the entry that maps it counts.
hold:
    push rdi
    call known_frame
    pop  rdi
    test rax, rax
    jnz  2f
    test r13, r13
    jz   9f
    lea  rcx, [rip + known]
    mov  edx, MAX_KNOWN
1:  mov  rax, [rip + known_next]        ; round and round: a free one is near
    inc  rax
    cmp  rax, MAX_KNOWN
    jb   3f
    xor  eax, eax
3:  mov  [rip + known_next], rax
    shl  rax, K_SHIFT
    add  rax, rcx
    cmp  qword ptr [rax + K_block], 0
    je   4f
    dec  edx
    jnz  1b
9:  ret                                 ; there is no place: the next one comes by its contents
4:  push r15
    mov  r15, rax
    mov  [r15 + K_frame], rdi
    push rdi
    mov  rdi, r15
    call page_of
    pop  rsi
    shl  rsi, 12
    or   rsi, PTE_READ
    call map_client
    test rax, rax
    jnz  5f
    mov  [r15 + K_block], r13
    mov  qword ptr [r15 + K_entries], 1
    lea  rdi, [rip + by_block]
    mov  rsi, r13
    call map_find
    mov  [rax], r13
    mov  [rax + 8], r15
    lea  rdi, [rip + by_frame]
    mov  rsi, [r15 + K_frame]
    call map_find
    mov  rsi, [r15 + K_frame]
    mov  [rax], rsi
    mov  [rax + 8], r15
5:  pop  r15
    ret
2:  inc  qword ptr [rax + K_entries]
    ret

; -- memory of clients -----------------------------------------------------------------------------

; Entry R12 of client RBX becomes RSI. RAX = 0 or a negative errno.
update:
    lea  rdi, [rip + requests]
    mov  [rdi], r12
    mov  [rdi + 8], rsi
    mov  esi, 1
; The same for RSI entries, which `requests` says.
update_all:
    test esi, esi
    jz   1f
    add  [rip + updates], rsi
    lea  rdi, [rip + requests]
    xor  edx, edx
    mov  ecx, [rbx + C_domain]
    lea  eax, [rcx + 1]
    shl  eax, 16
    or   ecx, eax
    hypercall mmu_update, 4
    test rax, rax
    jz   2f
    inc  qword ptr [rip + refused]
2:  ret
1:  xor  eax, eax
    ret

; make_ro_and_share of RSI entries at RDI. Pages that cannot be shared are not the manager's fault.
share:
    add  [rip + shared], rsi
    lea  rdx, [rip + share_done]
    mov  ecx, PTE_COW
    hypercall make_ro_and_share_batch, 4
    ret

; RAX = frame that the entry R12 maps; 0 if it maps none, or is not to be seen.
frame_in:
    mov  rdi, r12
    shr  rdi, 12
    call table_at
    test rax, rax
    jz   1f
    mov  ecx, r12d
    and  ecx, PAGE - 8
    add  rax, rcx
; RAX = frame that the entry at RAX maps, or 0.
frame_of:
    mov  rax, [rax]
    test al, PTE_P
    jz   2f
    shl  rax, 12
    shr  rax, 24
1:  ret
2:  xor  eax, eax
    ret

; RAX = where the table RDI (an MFN) of client RBX can be read; 0 if it is not the client's.
table_at:
    lea  rcx, [rip + windows]
    xor  edx, edx
    test rdi, rdi
    jz   2f
1:  cmp  [rcx + rdx * 8], rdi
    je   3f
    inc  edx
    cmp  edx, WINDOWS
    jb   1b
    mov  edx, [rip + window_next]
    push rdi
    push rdx
    mov  rsi, rdi
    shl  rsi, 12
    or   rsi, PTE_READ
    mov  rdi, rdx
    shl  rdi, 12
    mov  rax, TABLES
    add  rdi, rax
    call map_client
    pop  rdx
    pop  rdi
    test rax, rax
    jnz  2f
    lea  rcx, [rip + windows]
    mov  [rcx + rdx * 8], rdi
    lea  eax, [rdx + 1]
    and  eax, WINDOWS - 1
    mov  [rip + window_next], eax
3:  mov  rax, rdx
    shl  rax, 12
    mov  rcx, TABLES
    add  rax, rcx
    ret
2:  xor  eax, eax
    ret

; Maps RSI, an entry for memory of client RBX, at RDI.
map_client:
    mov  ecx, [rbx + C_domain]
    jmp  1f
; The same for an entry of our own, or none.
map_own:
    mov  ecx, DOMID_SELF
1:  mov  edx, UVMF_INVLPG
    hypercall update_va_mapping_otherdomain, 4
    ret

.bss
.align 4096
by_block:           .zero MAP_PLACES * 16   ; block -> known
by_frame:           .zero MAP_PLACES * 16   ; frame -> known
known:              .zero MAX_KNOWN << K_SHIFT
windows:            .zero WINDOWS * 8   ; which table is in which
window_next:        .zero 8
known_next:         .zero 8
requests:           .zero 512 * 16      ; struct mmu_update, or struct share_req
share_done:         .zero 8
updates:            .zero 8             ; entries changed
loads:              .zero 8
known_again:        .zero 8             ; entries for blocks that were known
shared:             .zero 8             ; entries that make_ro_and_share was asked for
refused:            .zero 8
