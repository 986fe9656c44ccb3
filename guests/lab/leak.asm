; What a domain learns by make_ro_and_share alone about the pages of another one.
;
; There are 64 contents that the victim may have. It has those whose bit in `secret` is set, and
; shares them. The spy makes a page of each of the 64, shares it, writes to it, and concludes from
; what it sees whether the victim has it: 64 bits for each way of looking.
;
;   role=victim secret=N    has pages, and waits
;   role=spy                finds out, and prints `# leak WAY=BITS` lines
;
; Ways of looking: the status of the call; whether the page's frame number has changed; whether the
; frame that the next allocation gives is the one that the page had; the time that the call took; the
; time of the write, with the copy. Times are held against those of two pages of its own, of which
; one is known to have merged; a time that is as far from both is no answer, and counts as "no".

.include "lib/kernel.inc"
.include "lib/share.inc"

.equ CONTENTS,  64
.equ FIRST,     1000                    ; number of the first of the contents
.equ OWN,       5000                    ; of the spy's
.equ SPY_AT,    20000000                ; nanoseconds at which the spy begins
.equ END,       60000000                ; and at which the victim ends
.equ SCHEDOP_poll, 3

.text
main:
    mov  edi, CONTENTS + 4
    call area_map
    param_is "role=spy"
    jz   spy

victim:
    ktap_plan 2
    param r12, "secret", 0
    xor  ebx, ebx
    xor  r13d, r13d                     ; pages refused by policy
1:  mov  rdi, rbx
    call page_at
    lea  rsi, [rbx + FIRST]
    call pattern_fill
    bt   r12, rbx
    jnc  2f
    mov  rdi, rbx
    call page_at
    mov  esi, PTE_COW
    call share_page
2:  inc  ebx
    cmp  ebx, CONTENTS
    jb   1b
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    mov  edi, END
    call wait_until
    xor  ebx, ebx
    xor  r13d, r13d
3:  mov  rdi, rbx
    call page_at
    lea  rsi, [rbx + FIRST]
    mov  rdx, -1
    call pattern_check
    add  r13, rax
    inc  ebx
    cmp  ebx, CONTENTS
    jb   3b
    ktap_result r13, "contents in the end"
    ret

spy:
    ktap_plan 1
    mov  edi, SPY_AT
    call wait_until
    mov  ebx, CONTENTS                  ; of these three the last one merges with the one before
    mov  esi, OWN
    call look
    mov  r12, [rip + call_time]
    mov  r13, [rip + copy_time]
    mov  rdi, CONTENTS + 1
    call page_at
    mov  esi, OWN + 1
    call pattern_fill
    mov  rdi, CONTENTS + 1
    call page_at
    mov  esi, PTE_COW
    call share_page
    mov  ebx, CONTENTS + 2
    mov  esi, OWN + 1
    call look
    mov  r14, [rip + call_time]
    mov  r15, [rip + copy_time]

    xor  ebx, ebx
1:  lea  rsi, [rbx + FIRST]
    call look
    cmp  qword ptr [rip + status], 1
    jne  2f
    bts  [rip + by_status], rbx
2:  mov  rax, [rip + frame_after]
    cmp  rax, [rip + frame_before]
    je   3f
    bts  [rip + by_frame], rbx
3:  mov  rax, [rip + frame_next]
    cmp  rax, [rip + frame_before]
    jne  4f
    bts  [rip + by_next], rbx
4:  mov  rdi, [rip + call_time]
    mov  rsi, r12
    mov  rdx, r14
    call nearer
    jnc  5f
    bts  [rip + by_call_time], rbx
5:  mov  rdi, [rip + copy_time]
    mov  rsi, r13
    mov  rdx, r15
    call nearer
    jnc  6f
    bts  [rip + by_copy_time], rbx
6:  inc  ebx
    cmp  ebx, CONTENTS
    jb   1b

    .irp way, status, frame, next, call_time, copy_time
    print "# leak \way="
    mov  rdi, [rip + by_\way]
    call print_hex
    call print_newline
    .endr
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    ret

; RDI = address of page RDI.
page_at:
    shl  rdi, 12
    mov  rax, AREA
    add  rdi, rax
    ret

; Makes page RBX of contents RSI, shares it, writes to it, and notes what was seen.
look:
    mov  rdi, rbx
    call page_at
    push rdi
    call pattern_fill
    mov  rdi, [rsp]
    call mfn_at
    mov  [rip + frame_before], rax
    call now
    mov  [rip + call_time], rax
    mov  rdi, [rsp]
    mov  esi, PTE_COW
    call share_page
    mov  [rip + status], rax
    call now
    sub  rax, [rip + call_time]
    mov  [rip + call_time], rax
    mov  rdi, [rsp]
    call mfn_at
    mov  [rip + frame_after], rax
    call now
    mov  [rip + copy_time], rax
    mov  rdi, [rsp]
    mov  qword ptr [rdi], -1
    call now
    sub  rax, [rip + copy_time]
    mov  [rip + copy_time], rax
    lea  rdi, [rip + window]            ; where the copy's handler keeps the frame that it was given
    call mfn_at
    mov  [rip + frame_next], rax
    pop  rdi
    ret

; CF is set if RDI is nearer to RDX than to RSI.
nearer:
    sub  rsi, rdi
    mov  rax, rsi
    neg  rax
    cmovns rsi, rax
    sub  rdx, rdi
    mov  rax, rdx
    neg  rax
    cmovns rdx, rax
    cmp  rdx, rsi
    ret

; RAX = nanoseconds of virtual time.
now:
    rdtsc
    shl  rdx, 32
    or   rax, rdx
    ret

wait_until:
    mov  [rip + poll_until], rdi
    mov  edi, SCHEDOP_poll
    lea  rsi, [rip + poll]
    hypercall sched_op
    ret

.data
.align 8
poll:               .quad 0, 0          ; struct sched_poll: no ports,
poll_until:         .quad 0             ;   and until when
.bss
.align 8
status:             .zero 8
frame_before:       .zero 8
frame_after:        .zero 8
frame_next:         .zero 8
call_time:          .zero 8
copy_time:          .zero 8
by_status:          .zero 8
by_frame:           .zero 8
by_next:            .zero 8
by_call_time:       .zero 8
by_copy_time:       .zero 8
