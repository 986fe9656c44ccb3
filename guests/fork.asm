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
    param [xip + procs], "procs", 4
    param [xip + pages], "pages", 32
    mov  eax, MAX_PROCESSES
    cmp  [xip + procs], xax
    jbe  1f
    mov  [xip + procs], xax
1:  mov  eax, 256
    cmp  [xip + pages], xax
    jbe  1f
    mov  [xip + pages], xax
1:  ktap_plan 4
    call share_missing
    mov  [xip + missing], xax
    call process_start
    lea  xdi, [xip + program]
    mov  xsi, [xip + pages]
    mov  xdx, [xip + procs]
    call process_run

    print "# processes: "
    print_number [xip + procs]
    print ", data pages: "
    print_number [xip + pages]
    print ", copied on write: "
    print_number [xip + cow_copies]
    call print_newline
    call share_report
    cmp  xword ptr [xip + missing], 0
    jne  1f
    call share_surprises
    ktap_result xax, "fork shared every page or policy forbade it"
    jmp  2f
1:  ktap_skip "fork shared every page or policy forbade it", "no make_ro_and_share here"
2:  lea  xbx, [xip + processes]
    xor  ebp, ebp                       ; failures that the processes saw
    mov  ecx, MAX_PROCESSES
3:  cmp  xword ptr [xbx + P_state], DONE
    jne  4f
    dec  xword ptr [xip + procs]        ; those that did not come to their end are left
4:  add  xbp, [xbx + P_failures]
    add  xbx, P_SIZE
    dec  ecx
    jnz  3b
    ktap_result [xip + procs], "every process ran to its end"
    ktap_result xbp, "contents seen in user mode"
    ktap_result [xip + process_leaks], "frames and tables are given back"
    ret

.bss
procs:      .zero 8
pages:      .zero 8
missing:    .zero 8                     ; 1 if nothing can be shared here

; The program: one page, mapped at USER, so that nothing in it has an address. What it knows lies on
; its stack, at XBP:
.equ U_data,        0                   ; its data,
.equ U_pages,       WSIZE                ; that many pages
.equ U_processes,   WSIZE * 2
.equ U_self,        WSIZE * 3            ; which process this is (0: the first)
.equ U_failures,    WSIZE * 4

.text
.align 4096
program:
    sub  xsp, WSIZE * 6
    mov  xbp, xsp
    mov  [xbp + U_data], xdi
    mov  [xbp + U_pages], xsi
    mov  [xbp + U_processes], xdx
    xor  eax, eax
    mov  [xbp + U_self], xax
    mov  [xbp + U_failures], xax
    xor  ebx, ebx
1:  cmp  xbx, [xbp + U_pages]           ; fill all pages
    jae  2f
    xor  esi, esi
    call user_fill
    inc  xbx
    jmp  1b
2:  mov  ebx, 1                         ; fork the others
3:  cmp  xbx, [xbp + U_processes]
    jae  5f
    system_call SYS_fork
    test xax, xax
    jz   4f
    inc  xbx
    jmp  3b
4:  mov  [xbp + U_self], xbx
5:  system_call SYS_yield

    xor  ebx, ebx
6:  cmp  xbx, [xbp + U_pages]           ; the first one's contents, then our own on every second
    jae  7f
    xor  esi, esi
    call user_check
    call is_ours
    jnz  8f
    mov  xsi, [xbp + U_self]
    inc  xsi
    call user_fill
8:  inc  xbx
    jmp  6b
7:  system_call SYS_yield

    xor  ebx, ebx
9:  cmp  xbx, [xbp + U_pages]
    jae  10f
    xor  esi, esi
    call is_ours
    jnz  11f
    mov  xsi, [xbp + U_self]
    inc  xsi
11: call user_check
    inc  xbx
    jmp  9b
10: mov  xdi, [xbp + U_failures]
    system_call SYS_exit
    ud2

; ZF is set if this process writes to page XBX.
is_ours:
    mov  eax, [xbp + U_self]
    add  eax, ebx
    test al, 1
    ret

; Fills page XBX with the contents of writer XSI.
user_fill:
    call user_contents
1:  mov  [xdi], xax
    add  xax, xdx
    add  xdi, WSIZE
    loop 1b
    ret

; Counts as failures the words of page XBX that are not writer XSI's.
user_check:
    call user_contents
1:  cmp  [xdi], xax
    je   2f
    inc  xword ptr [xbp + U_failures]
2:  add  xax, xdx
    add  xdi, WSIZE
    loop 1b
    ret

; For page XBX of writer XSI: XDI = where, XCX = words, XAX = the first, XDX = step.
user_contents:
    mov  xdi, xbx
    shl  xdi, 12
    add  xdi, [xbp + U_data]
    mov  ecx, PAGE / WSIZE
    .if BITS == 64
    mov  rdx, 0x9e3779b97f4a7c15
    .else
    mov  edx, 0x9e3779b1
    .endif
    mov  xax, xsi
    shl  xax, 16
    add  xax, xbx
    inc  xax
    imul xax, xdx
    ret
.align 4096
