; cowbird: description = make_ro_and_share from assembly: enter, merge, fault, copy
; cowbird: oracle = no: needs make_ro_and_share
;
; The kernel library's page-fault handler copies a page that carries the COW mark (lib/cow.inc).

.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    ktap_plan 7
    call boot_page
    mov  r12, rax
    call boot_page
    mov  r13, rax
    mov  dword ptr [r12 + 8], 0x1234
    mov  dword ptr [r13 + 8], 0x1234

    mov  rdi, r12
    mov  esi, PTE_COW
    call share_page
    ktap_result rax, "the first page is entered"
    mov  rdi, r13
    mov  esi, PTE_COW
    call share_page
    dec  rax
    ktap_result rax, "the second is merged"
    mov  rdi, r12
    call mfn_at
    mov  rbx, rax
    mov  rdi, r13
    call mfn_at
    sub  rbx, rax
    ktap_result rbx, "they have one frame"
    mov  rdi, r13
    call pte_of
    mov  ebx, [rax]
    and  ebx, PTE_RW | PTE_COW
    xor  ebx, PTE_COW
    ktap_result rbx, "the entry is read-only and marked"

    mov  dword ptr [r13 + 8], 0x5678    ; faults; the handler copies; runs again
    mov  rbx, [rip + cow_copies]
    dec  rbx
    ktap_result rbx, "a write makes one copy"
    mov  ebx, [r13 + 8]
    sub  ebx, 0x5678
    ktap_result rbx, "it is in the copy"
    mov  ebx, [r12 + 8]
    sub  ebx, 0x1234
    ktap_result rbx, "and not in the other page"
    ret
