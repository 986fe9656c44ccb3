; Boots, says who it is, shuts down.
;
; The smallest kernel on the library: it needs less than 1 MiB and no hypercall of this project.
; Its command line is printed and not looked at.

.include "lib/kernel.inc"

.text
main:
    ktap_plan 1
    mov  xbx, [xip + start_info]
    print "# hello from a "
    lea  xdi, [xbx + SI_magic]
    call print_string
    print " domain of "
    print_number [xbx + SI_nr_pages]
    print " pages"
    test dword ptr [xbx + SI_flags], SIF_PRIVILEGED
    jz   1f
    print ", privileged"
1:  call print_newline

    print "# Xen "
    mov  edi, XENVER_version            ; major in the upper half, minor in the lower
    hypercall xen_version
    push xax
    mov  edi, eax
    shr  edi, 16
    call print_decimal
    print "."
    pop  xdi
    movzx edi, di
    call print_decimal
    mov  edi, XENVER_extraversion
    lea  xsi, [xip + extraversion]
    hypercall xen_version
    lea  xdi, [xip + extraversion]
    call print_string
    call print_newline

    print "# command line: "
    lea  xdi, [xbx + SI_cmd_line]
    call print_string
    call print_newline
    ktap_result 0, "hello"
    ret

.bss
extraversion:   .zero 16
