; cowbird: description = the smallest program: a plan, a check, the end
.include "lib/kernel.inc"

.text
main:
    ktap_plan 1
    xor  ebx, ebx
    ktap_result rbx, "it boots"
    ret
