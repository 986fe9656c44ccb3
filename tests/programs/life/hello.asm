; cowbird: description = the smallest program: a plan, a check, the end
; cowbird: environments = pv64, pv32, xen
.include "lib/kernel.inc"

.text
main:
    ktap_plan 1
    xor  ebx, ebx
    ktap_result xbx, "it boots"
    ret
