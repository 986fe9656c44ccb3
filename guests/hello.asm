; Boots, says who it is, shuts down.
;
; The smallest kernel on the library: it needs less than 1 MiB and no hypercall of this project.
; Its command line is printed and not looked at.

.include "lib/kernel.inc"

.text
main:
    ktap_plan 1
    mov  rbx, [rip + start_info]
    print "# hello from a "
    lea  rdi, [rbx + SI_magic]
    call print_string
    print " domain of "
    print_number [rbx + SI_nr_pages]
    print " pages"
    test dword ptr [rbx + SI_flags], SIF_PRIVILEGED
    jz   1f
    print ", privileged"
1:  call print_newline

    print "# Xen "
    mov  edi, XENVER_version            ; major in the upper half, minor in the lower
    hypercall xen_version
    mov  r12d, eax
    mov  edi, eax
    shr  edi, 16
    call print_decimal
    print "."
    movzx edi, r12w
    call print_decimal
    mov  edi, XENVER_extraversion
    lea  rsi, [rip + extraversion]
    hypercall xen_version
    lea  rdi, [rip + extraversion]
    call print_string
    call print_newline

    print "# command line: "
    lea  rdi, [rbx + SI_cmd_line]
    call print_string
    call print_newline
    ktap_result 0, "hello"
    ret

.bss
extraversion:   .zero 16
