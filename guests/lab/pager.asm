; The external pager, as microkernels have it: the memory of its clients' workloads is this domain's,
; and every fault in it comes here as a message (lab/pager.inc). The answer is a grant, to be mapped
; by the client itself: Xen has no other way to give memory that can be taken back, and a pager
; needs no privilege for it.
;
; An *object* is a page as one client sees it; its number is that of its grant. Objects whose pages
; must be equal are on one frame: pages never written (a zero frame), blocks of files, and what a
; fork has copied. The first write to such an object gives it a frame of its own. What programs
; write is never looked at: pages that became equal by themselves stay apart.

.include "lib/kernel.inc"
.include "lab/serve.inc"

.equ OBJECTS,       GRANT_FRAMES * 512
.equ FIRST_OBJECT,  16
.equ FRAMES,        4096                ; pages from AREA on, each with a frame or none
.equ ZERO,          0                   ; the frame of zeros

; struct object
.equ O_client,      0                   ; 16 bits: its number plus 1; 0: not in use
.equ O_frame,       4                   ; 32 bits: which frame
.equ O_SHIFT,       3

; struct frame
.equ FR_mfn,        0                   ; 0: there is none
.equ FR_objects,    8                   ; 32 bits
.equ FR_fixed,      12                  ; 32 bits: 1 if its contents are known, and never change
.equ FR_block,      16
.equ FR_SHIFT,      5

.text
main:
    ktap_plan 1
    mov  rdi, AREA + FRAMES * PAGE
    call serve_tables
    lea  rdi, [rip + grant_table]
    mov  esi, GRANT_FRAMES
    call grants_start
    test rax, rax
    jnz  paging_failed
    call serve_start
    xor  edi, edi
    call serve_release
    call frame_new                      ; the first one is ZERO
    mov  dword ptr [rax + FR_fixed], 1
    inc  dword ptr [rax + FR_objects]
    call serve
    .irp what, served, faults, copies, zeros, by_reference, refused
    print "# lab \what="
    print_number [rip + \what]
    call print_newline
    .endr
    ktap_result [rip + refused], "every request was one that a client may make"
    ret

; One request: RBX = client, RBP = request. EAX = status.
handle:
    mov  r12, [rbp + Q_a]               ; read once: the client may change them at any time
    mov  r13, [rbp + Q_b]
    mov  r14, [rbp + Q_c]
    mov  qword ptr [rbp + Q_result], 0
    cmp  eax, OP_fault
    je   do_fault
    cmp  eax, OP_seal
    je   do_seal
    cmp  eax, OP_copy
    je   do_copy
    cmp  eax, OP_drop
    je   do_drop
refuse:
    inc  qword ptr [rip + refused]
    mov  eax, -EINVAL
    ret

; R15 = object R12, which must be the client's and not mapped just now; else the request is refused.
.macro an_object
    call object
    jz   refuse
.endm

; A page is touched: object R12, or none and block R13, or neither; R14 = 1 for a write.
do_fault:
    inc  qword ptr [rip + faults]
    test r12, r12
    jnz  4f
    test r13, r13
    jnz  2f
    test r14, r14
    jnz  1f
    inc  qword ptr [rip + zeros]
    lea  rdi, [rip + frames + (ZERO << FR_SHIFT)]
    jmp  3f
1:  call frame_new
    mov  rdi, rax
    call object_new
    xor  esi, esi
    jmp  offer
2:  lea  rdi, [rip + by_block]
    mov  rsi, r13
    call map_find
    cmp  qword ptr [rax], 0
    je   5f
    inc  qword ptr [rip + by_reference]
    mov  rdi, [rax + 8]
3:  call object_new
    mov  esi, 1
    jmp  offer
5:  call frame_new                      ; the client has to bring it
    mov  rdi, rax
    call object_new
    xor  esi, esi
    call offer
    mov  eax, 1
    ret
4:  an_object
    call frame_of
    cmp  dword ptr [rdi + FR_fixed], 0
    jne  6f
    xor  esi, esi
    cmp  dword ptr [rdi + FR_objects], 1
    je   offer                          ; nobody else has it
6:  mov  esi, 1
    test r14, r14
    jz   offer
    push rdi
    call frame_new
    pop  rsi
    call frame_fill
    mov  rdi, rsi
    call frame_put
    xor  esi, esi
    jmp  offer

; Object R15 gets the frame RAX instead of RSI, with the same contents. Keeps RSI.
frame_fill:
    push rsi
    inc  dword ptr [rax + FR_objects]
    lea  rcx, [rip + frames]
    mov  rdx, rax
    sub  rdx, rcx
    shr  rdx, FR_SHIFT
    mov  [r15 + O_frame], edx
    cmp  rsi, rcx                       ; zeros are there already
    je   1f
    mov  rdi, rax
    call page_of
    push rdi
    mov  rdi, rsi
    call page_of
    mov  rsi, rdi
    pop  rdi
    inc  qword ptr [rip + copies]
    call copy_page
1:  pop  rsi
    ret

; Grants object R15, read-only if ESI is 1, and says so in the request. EAX = 0.
offer:
    call frame_of
    call number_of
    mov  rcx, [rdi + FR_mfn]
    lea  rdx, [rip + grant_table]
    mov  [rdx + rax * 8 + 4], ecx
    mov  ecx, [rbx + C_domain]
    mov  [rdx + rax * 8 + 2], cx
    mov  ecx, GTF_permit_access
    test esi, esi
    jz   1f
    or   ecx, GTF_readonly
    bts  rax, 32                        ; OBJECT_readonly
1:  mov  [rbp + Q_result], rax
    mov  eax, eax
    mov  [rdx + rax * 8], cx
    xor  eax, eax
    ret

; The page of object R12 has been filled with block R13.
do_seal:
    an_object
    test r13, r13
    jz   refuse
    call frame_of
    cmp  dword ptr [rdi + FR_fixed], 0
    jne  refuse
    cmp  dword ptr [rdi + FR_objects], 1
    jne  refuse
    mov  r14, rdi
    lea  rdi, [rip + by_block]
    mov  rsi, r13
    call map_find
    cmp  qword ptr [rax], 0
    jne  1f
    mov  [rax], r13
    mov  [rax + 8], r14
    mov  [r14 + FR_block], r13
    mov  dword ptr [r14 + FR_fixed], 1
    xor  eax, eax
    ret
1:  mov  rdi, [rax + 8]                 ; another client was faster: its page will do
    inc  dword ptr [rdi + FR_objects]
    lea  rcx, [rip + frames]
    sub  rdi, rcx
    shr  rdi, FR_SHIFT
    mov  [r15 + O_frame], edi
    mov  rdi, r14
    jmp  frame_put

; Another object with the page of object R12, which nobody may write any more before it asks.
do_copy:
    call object_any
    jz   refuse
    call number_of
    lea  rcx, [rip + grant_table]
    movzx edx, word ptr [rcx + rax * 8]
    test edx, GTF_IN_USE
    jz   1f
    test edx, GTF_readonly
    jz   refuse
    jmp  2f
1:  mov  word ptr [rcx + rax * 8], 0
2:  call frame_of
    call object_new
    call number_of
    mov  [rbp + Q_result], rax
    xor  eax, eax
    ret

; Object R12 is not needed any more.
do_drop:
    an_object
    call number_of
    lea  rcx, [rip + grant_table]
    mov  word ptr [rcx + rax * 8], 0
    call frame_of
    mov  word ptr [r15 + O_client], 0
; An object leaves the frame RDI. EAX = 0.
frame_put:
    dec  dword ptr [rdi + FR_objects]
    jnz  1f
    push r14
    mov  r14, rdi
    mov  rsi, [r14 + FR_block]
    test rsi, rsi
    jz   2f
    lea  rdi, [rip + by_block]
    call map_remove
2:  mov  rdi, r14
    call page_of
    call unmap_page
    mov  rdi, [r14 + FR_mfn]
    mov  qword ptr [r14 + FR_mfn], 0
    call frame_free
    add  [rip + refused], rax
    pop  r14
1:  xor  eax, eax
    ret

; -- objects and frames ----------------------------------------------------------------------------

; R15 = object R12 of client RBX. ZF is set if it is not the client's, or is mapped just now.
object:
    call object_any
    jz   1f
    lea  rcx, [rip + grant_table]
    test word ptr [rcx + r12 * 8], GTF_IN_USE
    setz al
    test al, al
1:  ret
object_any:
    cmp  r12, OBJECTS
    jae  2f
    lea  r15, [rip + objects]
    lea  r15, [r15 + r12 * (1 << O_SHIFT)]
    movzx eax, word ptr [r15 + O_client]
    mov  ecx, [rbx + C_number]
    inc  ecx
    cmp  eax, ecx
    sete al
    test al, al
    ret
2:  xor  eax, eax
    ret

; RAX = number of object R15.
number_of:
    lea  rcx, [rip + objects]
    mov  rax, r15
    sub  rax, rcx
    shr  rax, O_SHIFT
    ret

; RDI = frame of object R15.
frame_of:
    mov  edi, [r15 + O_frame]
    shl  rdi, FR_SHIFT
    lea  rcx, [rip + frames]
    add  rdi, rcx
    ret

; R15 = a new object of client RBX on the frame RDI. Ends the pager if there are too many.
object_new:
    mov  eax, [rip + object_next]
    mov  edx, OBJECTS
1:  inc  eax
    cmp  eax, OBJECTS
    jb   2f
    mov  eax, FIRST_OBJECT
2:  lea  r15, [rip + objects]
    lea  r15, [r15 + rax * (1 << O_SHIFT)]
    cmp  word ptr [r15 + O_client], 0
    je   3f
    dec  edx
    jnz  1b
    fail "objects", "more pages than there are grants"
3:  mov  [rip + object_next], eax
    mov  ecx, [rbx + C_number]
    inc  ecx
    mov  [r15 + O_client], cx
    inc  dword ptr [rdi + FR_objects]
    mov  rax, rdi
    lea  rcx, [rip + frames]
    sub  rax, rcx
    shr  rax, FR_SHIFT
    mov  [r15 + O_frame], eax
    ret

; RAX = a new frame, of zeros, for no object yet. Ends the pager if there is none.
frame_new:
    push rbx
    mov  edx, FRAMES
    mov  eax, [rip + frame_next]
1:  cmp  eax, FRAMES
    jb   2f
    xor  eax, eax
2:  mov  ebx, eax
    inc  eax
    shl  rbx, FR_SHIFT
    lea  rcx, [rip + frames]
    add  rbx, rcx
    cmp  qword ptr [rbx + FR_mfn], 0
    je   3f
    dec  edx
    jnz  1b
4:  fail "frames", "out of memory"
3:  mov  [rip + frame_next], eax
    call frame_alloc
    test rax, rax
    jz   4b
    mov  [rbx + FR_mfn], rax
    mov  qword ptr [rbx + FR_objects], 0    ; and not fixed
    mov  qword ptr [rbx + FR_block], 0
    mov  rdi, rbx
    call page_of
    mov  rsi, rax
    mov  edx, PTE_DATA
    call map_frame
    test rax, rax
    jnz  paging_failed
    mov  rax, rbx
    pop  rbx
    ret

; RDI = address of the page of the frame RDI. Keeps RAX.
page_of:
    lea  rcx, [rip + frames]
    sub  rdi, rcx
    shl  rdi, 12 - FR_SHIFT
    mov  rcx, AREA
    add  rdi, rcx
    ret

.bss
.align 4096
grant_table:        .zero GRANT_FRAMES * 4096   ; Xen's frames are mapped here
by_block:           .zero MAP_PLACES * 16   ; block -> frame
objects:            .zero OBJECTS << O_SHIFT
frames:             .zero FRAMES << FR_SHIFT
object_next:        .zero 4
frame_next:         .zero 4
faults:             .zero 8
copies:             .zero 8
zeros:              .zero 8             ; reads of pages that nobody had written
by_reference:       .zero 8             ; faults for blocks that were there
refused:            .zero 8
