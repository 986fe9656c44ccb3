; The laboratory of `cowbird compare`: one kernel, any of its workloads under any of its policies.
;
; A workload (lab/wl_*.inc) fills, reads, writes and frees pages whose contents can be made again
; from a record, and checks them all the time. A policy (lab/policies.inc and what it includes)
; decides what is done about equal pages: it is a table of routines, and every mapping of a
; workload's page goes through it. Everything happens in phases that begin at multiples of `phase`
; nanoseconds of virtual time, so that equal kernels do the same at the same time.
;
;   workload=NAME   boot, fork, pagecache, fourphase, short, aslr or writeall
;   policy=NAME     none, reference, scanner, share, background, ...
;   contents=NAME   of fourphase: zero, random, identical or similar
;   pages=N         pages of the workload (default 128)
;   instance=N      which of several equal domains this is (default 0)
;   seed=N          which run (default 1)
;   phase=N         nanoseconds of a phase (default 100 ms)
;   sleep=N         nanoseconds between two passes in the background (default 2 ms)
;   scan_pages=N    pages that one pass looks at (default 64)
;
; `# mark NAME` lines say where the workload is, `# lab NAME=NUMBER` lines what was counted.

.include "lib/xen.inc"
.include "lib/start.inc"
.include "lib/console.inc"
.include "lib/ktap.inc"
.include "lib/params.inc"
.include "lib/string.inc"
.include "lib/random.inc"
.include "lib/paging.inc"
.include "lib/frames.inc"
.include "lib/traps.inc"
.include "lib/share.inc"
.include "lab/policy.inc"
.include "lab/time.inc"
.include "lab/memory.inc"
.include "lab/contents.inc"
.include "lab/fault.inc"
.include "lab/process.inc"
.include "lab/policies.inc"
.include "lab/workloads.inc"

.text
main:
    ktap_plan 3
    param rax, "pages", 128
    mov  [rip + pages], rax
    test rax, rax
    jz   nothing
    param rax, "instance", 0
    mov  [rip + instance], rax
    param rax, "seed", 1
    mov  [rip + seed], rax
    imul rdi, rax, 1000
    add  rdi, [rip + instance]
    call random_seed
    call salt_pages
    call time_start
    call choose_policy
    call choose_workload
    call memory_start
    call [rip + workload_prepare]
    call memory_release

    mov  edi, 1
    call phase_await
    policy P_start
    mark "begin"
    lea  rdi, [rip + _start]            ; .text and .rodata: one run of pages
    lea  rsi, [rip + constants_end]
    sub  rsi, rdi
    shr  rsi, 12
    policy P_image
    call [rip + workload]
    call phase_end
    mark "end"
    policy P_report
    call lab_report
    ktap_result [rip + failures], "contents at every check"
    call share_surprises
    ktap_result rax, "every page shared or refused by policy"
    ktap_result [rip + lost], "every update done, every frame given back"
    ret

; Memory that is there and never used would be zeros in every domain, and equal: it is not what is
; compared here, and so each page of it gets a word of its own.
salt_pages:
    lea  rax, [rip + stack]
    call 1f
    lea  rax, [rip + trap_stack]
    call 1f
    lea  rax, [rip + trap_stack + PAGE]
    call 1f
    lea  rax, [rip + processes + MAX_PROCESSES * P_SIZE - 8]
    call 1f
    lea  rax, [rip + window]
    call 1f
    lea  rax, [rip + scratch]
    call 1f
    lea  rax, [rip + salt]
    call 1f
    lea  rax, [rip + fault_salt]
    call 1f
    lea  rax, [rip + contents_salt]
    call 1f
    lea  rax, [rip + process_salt]
    call 1f
    lea  rax, [rip + link_salt]
    call 1f
    param rax, "helper", 0
    test rax, rax
    jnz  2f                             ; else nobody will use these
    lea  rax, [rip + link + PAGE - 8]
    call 1f
    lea  rax, [rip + grant_table + PAGE - 8]
    call 1f
    lea  rax, [rip + fork_pfns + USER_PAGES * 8 - 8]
    call 1f
2:  mov  rcx, [rip + start_info]        ; behind the end of the P2M list
    mov  rax, [rcx + SI_nr_pages]
    test eax, 511
    jz   3f
    or   eax, 511
    mov  rcx, [rip + p2m]
    lea  rax, [rcx + rax * 8]
    call 1f
3:  mov  rcx, [rip + boot_free]
    sub  rcx, 8
    mov  rax, rcx                       ; the stack that the domain was born with
1:  call unique
    mov  [rax], rdx
    ret

nothing:
    fail "pages", "pages=0: nothing to do"

; Prints what was counted, and what the sharing calls answered.
lab_report:
    .irp what, copies, reuses, examined, allocated, freed, loaded, checks, forked, requests
    print "# lab \what="
    print_number [rip + count_\what]
    call print_newline
    .endr
    jmp  share_report

.bss
.align 8
pages:              .zero 8
instance:           .zero 8
seed:               .zero 8
failures:           .zero 8             ; quads that were not what they should be
lost:               .zero 8             ; updates that Xen refused, frames that it did not take
count_copies:       .zero 8             ; pages copied on write
count_reuses:       .zero 8             ; writes to pages that nobody else had any more
count_examined:     .zero 8             ; pages whose contents were summed up by the guest
count_allocated:    .zero 8
count_freed:        .zero 8
count_loaded:       .zero 8             ; blocks of files
count_checks:       .zero 8             ; pages whose contents were verified
count_forked:       .zero 8             ; entries that a fork made
count_requests:     .zero 8             ; questions to another domain
salt:               .zero 8

; Nothing may follow here: the sections end on page boundaries.
.text
.align 4096
.rodata
.align 4096
constants_end:
