; cowbird: description = make_ro_and_share from assembly: enter, merge, fault, copy
; cowbird: environments = pv64, pv32
; cowbird: oracle = no: needs make_ro_and_share
;
; The kernel library's page-fault handler copies a page that carries the COW mark (lib/cow.inc).

.include "lib/kernel.inc"
.include "lib/share.inc"

.text
main:
    ktap_plan 7
    call boot_page
    mov  [xip + first], xax
    call boot_page
    mov  [xip + second], xax
    mov  dword ptr [xax + 8], 0x1234
    mov  xax, [xip + first]
    mov  dword ptr [xax + 8], 0x1234

    mov  xdi, [xip + first]
    mov  esi, PTE_COW
    call share_page
    ktap_result xax, "the first page is entered"
    mov  xdi, [xip + second]
    mov  esi, PTE_COW
    call share_page
    dec  xax
    ktap_result xax, "the second is merged"
    mov  xdi, [xip + first]
    call mfn_at
    mov  xbx, xax
    mov  xdi, [xip + second]
    call mfn_at
    sub  xbx, xax
    ktap_result xbx, "they have one frame"
    mov  xdi, [xip + second]
    call pte_of
    mov  ebx, [xax]
    and  ebx, PTE_RW | PTE_COW
    xor  ebx, PTE_COW
    ktap_result xbx, "the entry is read-only and marked"

    mov  xax, [xip + second]
    mov  dword ptr [xax + 8], 0x5678    ; faults; the handler copies; runs again
    mov  xbx, [xip + cow_copies]
    dec  xbx
    ktap_result xbx, "a write makes one copy"
    mov  xax, [xip + second]
    mov  ebx, [xax + 8]
    sub  ebx, 0x5678
    ktap_result xbx, "it is in the copy"
    mov  xax, [xip + first]
    mov  ebx, [xax + 8]
    sub  ebx, 0x1234
    ktap_result xbx, "and not in the other page"
    ret

.bss
first:      .zero 8                     ; addresses of the two pages
second:     .zero 8
