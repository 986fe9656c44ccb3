// cowbird: description = exceptions of 32-bit code, the int 0x80 gate, and system calls by it
// cowbird: environments = pv32
/*
 * INTO, BOUND and the selectors of ring 1 exist only there. A gate whose DPL is at least the ring may be
 * used by `int n`; int 0x80 always (Xen: int80_direct_trap). SYSCALL of the CPU's is #UD in ring 3 of a
 * guest that has registered nothing for it.
 *
 * Source: Intel SDM 2 (INTO, BOUND); xen/arch/x86/pv/traps.c, x86_64/entry.S.
 */

#include "cowbird.h"

extern char at_de[], at_ud[], at_hlt[], after_of[], at_br[];
void do_de(void *), do_ud(void *), do_hlt(void *), do_of(void *), do_into(void *), do_br(void *);
__asm__("do_de:   xor %ecx, %ecx; xor %edx, %edx\n"
        "at_de:   div %ecx\n"
        "         ret\n"
        "do_ud:\n"
        "at_ud:   ud2\n"
        "do_hlt:\n"
        "at_hlt:  hlt\n"
        "         ret\n"
        "do_of:   mov $0x7fffffff, %eax; inc %eax\n"
        "         into\n"
        "after_of: ret\n"
        "do_into: xor %eax, %eax\n"
        "         into\n"
        "         ret\n"
        "do_br:   mov $7, %eax\n"
        "at_br:   bound %eax, bounds\n"
        "         ret\n"
        ".section .rodata\n"
        "bounds:  .long 1, 6\n"
        ".text\n");

static void check(void (*function)(void *), fault_t want, const char *eip, const char *name)
{
    ok_fault(catch_fault(function, NULL), want, "%s", name);
    if (eip)
        ok_value(last_fault()->eip, eip, "%s: its eip", name);
}

static void load_es(void *selector)
{
    __asm__ volatile("mov %0, %%es" : : "r"(selector));
}

#define ES(selector) catch_fault(load_es, (void *)(selector))

static struct regs seen;

static bool on_int_0x80(struct regs *regs)
{
    seen = *regs;
    regs->eax = 99;
    return true;
}

static long call(long unused)
{
    long result = 5;

    __asm__ volatile("int $0x80" : "+a"(result) : "b"(1), "c"(2), "d"(3), "S"(4), "D"(6) : "memory");
    return result;
}

static long kernels = 77;

static long load(long va)
{
    return *(volatile long *)va;
}

int main(void)
{
    long value = 0;

    ktap_plan(25);
    check(do_de, FAULT(TRAP_DE, 0), at_de, "division by zero is #DE");
    check(do_ud, UD, at_ud, "ud2 is #UD");
    check(do_hlt, GP(0), at_hlt, "hlt is #GP(0)");
    check(do_of, FAULT(TRAP_OF, 0), after_of, "into after an overflow is #OF");
    check(do_into, NO_FAULT, NULL, "and without one nothing");
    check(do_br, FAULT(TRAP_BR, 0), at_br, "a number out of its bounds is #BR");
    ok_fault(ES(0x1234), GP(0x1234), "a selector without a descriptor is #GP(selector)");
    ok_fault(ES(FLAT_KERNEL_DS), NO_FAULT, "the kernel's data segment is of ring 1");
    ok_fault(ES(FLAT_KERNEL_DS | 3), GP(FLAT_KERNEL_DS & ~3), "so not for RPL 3");
    ok_fault(ES(FLAT_USER_DS), NO_FAULT, "the user's is of ring 3");

    set_handler(0x80, on_int_0x80);
    set_trap_dpl(0x80, 0);
    ok_fault(user_run(call, 0, &value), NO_FAULT, "int 0x80 from user mode, whatever its DPL");
    ok_value(value, 99, "is answered");
    ok(seen.ebx == 1 && seen.ecx == 2 && seen.edx == 3 && seen.esi == 4 && seen.edi == 6,
       "all registers arrive");
    ok_value(seen.eax, 5, "the number too");
    ok_value(seen.cs, FLAT_USER_CS, "cs is the user's");
    ok_value(seen.ss, FLAT_USER_SS, "and ss");
    ok_value(*(uint16_t *)(seen.eip - 2), 0x80cd, "eip is behind the instruction");
    ok_fault(user_run(load, (long)&kernels, &value), PF(PF_P | PF_U),
             "the kernel's data is mapped, but not for the user");
    ok_fault(user_read((void *)MACH2PHYS_VIRT_START), PF(PF_P | PF_U), "nor is the M2P");
    ok_fault(user_run(load, (long)&user_read, &value), NO_FAULT, "the program's code is");
    return 0;
}
