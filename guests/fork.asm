; Forks user-mode processes that share their memory and write to it, and checks what each sees.
;
; The first process fills its pages and forks the others. Each of them, the first included, checks
; in user mode that it sees the first one's contents; writes all of every second page, so that some
; pages are written by several of them; lets the others run; and checks that it sees what it wrote
; itself and nothing else. Where nothing can be shared, fork copies.
;
;   procs=N     processes (default 4, at most 8)
;   pages=N     data pages (default 32, at most 256)

.include "lib/kernel.inc"
.include "lib/share.inc"
.include "lib/process.inc"

.text
main:
    param r12, "procs", 4
    param r13, "pages", 32
    mov  eax, MAX_PROCESSES
    cmp  r12, rax
    cmova r12, rax
    mov  eax, 256
    cmp  r13, rax
    cmova r13, rax
    ktap_plan 4
    call share_missing
    mov  r14, rax
    call process_start
    lea  rdi, [rip + program]
    mov  rsi, r13
    mov  rdx, r12
    call process_run

    print "# processes: "
    print_number r12
    print ", data pages: "
    print_number r13
    print ", copied on write: "
    print_number [rip + cow_copies]
    call print_newline
    call share_report
    test r14, r14
    jnz  1f
    call share_surprises
    ktap_result rax, "fork shared every page or policy forbade it"
    jmp  2f
1:  ktap_skip "fork shared every page or policy forbade it", "no make_ro_and_share here"
2:  lea  rbx, [rip + processes]
    xor  ebp, ebp                       ; processes that came to their end
    xor  r15d, r15d                     ; failures that they saw
    mov  ecx, MAX_PROCESSES
3:  xor  eax, eax
    cmp  qword ptr [rbx + P_state], DONE
    sete al
    add  rbp, rax
    add  r15, [rbx + P_failures]
    add  rbx, P_SIZE
    dec  ecx
    jnz  3b
    sub  r12, rbp
    ktap_result r12, "every process ran to its end"
    ktap_result r15, "contents seen in user mode"
    ktap_result [rip + process_leaks], "frames and tables are given back"
    ret

; The program: one page, mapped at USER, so everything in it is relative to RIP.
; R12 = data, R13 = pages, R14 = processes, R15 = which one this is (0: the first).
.align 4096
program:
    mov  r12, rdi
    mov  r13, rsi
    mov  r14, rdx
    xor  r15d, r15d
    xor  ebx, ebx
1:  cmp  rbx, r13                       ; fill all pages
    jae  2f
    xor  esi, esi
    call user_fill
    inc  rbx
    jmp  1b
2:  mov  ebx, 1                         ; fork the others
3:  cmp  rbx, r14
    jae  5f
    mov  eax, SYS_fork
    syscall
    test rax, rax
    jz   4f
    inc  rbx
    jmp  3b
4:  mov  r15, rbx
5:  mov  eax, SYS_yield
    syscall

    xor  ebp, ebp                       ; failures
    xor  ebx, ebx
6:  cmp  rbx, r13                       ; the first one's contents, then our own on every second
    jae  7f
    xor  esi, esi
    call user_check
    call is_ours
    jnz  8f
    lea  rsi, [r15 + 1]
    call user_fill
8:  inc  rbx
    jmp  6b
7:  mov  eax, SYS_yield
    syscall

    xor  ebx, ebx
9:  cmp  rbx, r13
    jae  10f
    xor  esi, esi
    call is_ours
    jnz  11f
    lea  rsi, [r15 + 1]
11: call user_check
    inc  rbx
    jmp  9b
10: mov  rdi, rbp
    mov  eax, SYS_exit
    syscall
    ud2

; ZF is set if this process writes to page RBX.
is_ours:
    lea  eax, [rbx + r15]
    test al, 1
    ret

; Fills page RBX with the contents of writer RSI.
user_fill:
    call user_contents
1:  mov  [rdi], rax
    add  rax, rdx
    add  rdi, 8
    loop 1b
    ret

; Adds to RBP the quads of page RBX that are not writer RSI's.
user_check:
    call user_contents
1:  cmp  [rdi], rax
    je   2f
    inc  rbp
2:  add  rax, rdx
    add  rdi, 8
    loop 1b
    ret

; For page RBX of writer RSI: RDI = where, RCX = quads, RAX = the first, RDX = step.
user_contents:
    mov  rdi, rbx
    shl  rdi, 12
    add  rdi, r12
    mov  ecx, PAGE / 8
    mov  rdx, 0x9e3779b97f4a7c15
    mov  rax, rsi
    shl  rax, 16
    add  rax, rbx
    inc  rax
    imul rax, rdx
    ret
.align 4096
