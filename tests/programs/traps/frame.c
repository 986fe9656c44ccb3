// cowbird: description = the bounce frame: its words, its place, and the registers at the handler
/*
 * Upward from RSP: rcx, r11, [error code], rip, cs | event mask << 32, rflags, rsp, ss; the stack
 * is aligned down to 16 before it is built (Xen: create_bounce_frame; public/arch-x86). The CS of a
 * kernel has RPL 0, SS is as it was. Xen leaves by SYSRET: RCX = RIP, R11 = RFLAGS.
 */

#include "frame.h"

static char stack[512] __attribute__((aligned(64)));
extern char ud2_here[], pf_here[];

/* RSP = argument, marks in the registers, then the fault. */
void do_ud2(void *rsp);
void do_pf(void *rsp);
__asm__("do_ud2:\n"
        "    mov  %rdi, %rsp\n"
        "    mov  $0x1111, %ecx\n"
        "    mov  $0x2222, %r11d\n"
        "    stc\n"
        "ud2_here: ud2\n"
        "do_pf:\n"
        "    mov  %rdi, %rsp\n"
        "    mov  $0x3333, %ecx\n"
        "    mov  $0x4444, %r11d\n"
        "pf_here: movb $1, 0x5000\n");

int main(void)
{
    static const unsigned int offsets[] = {0, 1, 7, 8, 15};
    char *top = stack + 256;

    ktap_plan(18);
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++) {
        raw_run(do_ud2, top + offsets[i]);
        ok_value(raw.rsp, top - 56, "RSP %u above a multiple of 16: 7 words below it", offsets[i]);
        ok_value(raw.word[5], top + offsets[i], "and is pushed as it was");
    }
    ok(raw.word[0] == 0x1111 && raw.word[1] == 0x2222, "rcx and r11 come first");
    ok_value(raw.word[2], ud2_here, "rip is the instruction's");
    ok_value(raw.word[3], KERNEL_CS_PUSHED | 1UL << 32, "cs without RPL, event mask above");
    ok(raw.word[4] & FLAGS_CF, "rflags has the carry flag that was set");
    ok_value(raw.word[6], FLAT_KERNEL_SS, "ss");
    ok(raw.rcx == (uint64_t)raw_entry && raw.r11 == raw.rflags, "the handler: rcx = rip, r11 = flags");

    set_trap_entry(TRAP_PF, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(do_pf, top);
    ok_value(raw.rsp, top - 64, "with an error code: 8 words");
    ok(raw.word[0] == 0x3333 && raw.word[2] == PF_W && raw.word[3] == (uint64_t)pf_here,
       "and the code is between r11 and rip");
    return 0;
}
