// cowbird: description = each exception that a few instructions can raise: vector, error code, rip
/*
 * Faults leave RIP at the instruction, INT3 behind it (SDM 3A, 6.15). INTO does not exist in
 * 64-bit mode and is #UD.
 */

#include "frame.h"

extern char at_de[], at_ud[], at_gp_load[], at_gp_hlt[], at_gp_cr[], after_bp[];

void do_de(void *), do_ud(void *), do_gp_load(void *), do_gp_hlt(void *), do_gp_cr(void *);
void do_bp(void *), do_into(void *), do_selector(void *);
__asm__("do_de:      xor %ecx, %ecx; xor %edx, %edx\n"
        "at_de:      div %ecx\n"
        "            ret\n"
        "do_ud:\n"
        "at_ud:      ud2\n"
        "do_gp_load: mov $0x8000000000000000, %rax\n"
        "at_gp_load: mov (%rax), %eax\n"
        "            ret\n"
        "do_gp_hlt:\n"
        "at_gp_hlt:  hlt\n"
        "            ret\n"
        "do_gp_cr:   mov $0x80000011, %eax\n"
        "at_gp_cr:   mov %rax, %cr8\n"
        "            ret\n"
        "do_bp:      int3\n"
        "after_bp:   ret\n"
        "do_into:    .byte 0xce\n"
        "            ret\n"
        "do_selector: mov $0x1234, %eax\n"
        "            mov %ax, %es\n"
        "            ret\n");

static void check(void (*function)(void *), fault_t want, const char *rip, const char *name)
{
    static uint64_t scratch;

    ok_fault(catch_fault(function, &scratch), want, "%s", name);
    if (rip)
        ok_value(last_fault()->rip, rip, "%s: its rip", name);
}

int main(void)
{
    ktap_plan(14);
    check(do_de, FAULT(TRAP_DE, 0), at_de, "division by zero is #DE");
    check(do_ud, UD, at_ud, "ud2 is #UD");
    check(do_gp_load, GP(0), at_gp_load, "a non-canonical address is #GP(0)");
    check(do_gp_hlt, GP(0), at_gp_hlt, "hlt is #GP(0)");
    check(do_gp_cr, GP(0), at_gp_cr, "mov to cr8 is #GP(0)");
    check(do_bp, FAULT(TRAP_BP, 0), after_bp, "int3 is #BP, rip behind it");
    check(do_into, UD, NULL, "into is #UD");
    check(do_selector, GP(0x1234), NULL, "a selector without a descriptor is #GP(selector)");
    return 0;
}
