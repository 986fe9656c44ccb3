// cowbird: description = iret to what the CPU refuses: non-canonical rip, selectors without descriptors
/*
 * Xen loads the state by its own IRET, whose fault becomes the guest's: #GP with the frame of the
 * state that was asked for (Xen: restore_all_guest, iret's fixup).
 */

#include "frame.h"

static void go(uint64_t rip, uint64_t cs, uint64_t ss)
{
    static struct regs regs;

    regs = (struct regs){.rip = rip, .cs = (uint32_t)cs, .ss = ss, .rflags = 2 | FLAGS_CF};
    __asm__ volatile("mov %%rsp, %0" : "=m"(regs.rsp));
    trap_return(&regs);
}

static void to_non_canonical(void *unused)
{
    go(0x800000000000, KERNEL_CS_PUSHED, FLAT_KERNEL_SS);
}

static void to_bad_cs(void *unused)
{
    go(VIRT_BASE, 0x1230, FLAT_KERNEL_SS);
}

static void to_bad_ss(void *unused)
{
    go(VIRT_BASE, KERNEL_CS_PUSHED, 0x1230);
}

static void to_null_cs(void *unused)
{
    go(VIRT_BASE, 0, FLAT_KERNEL_SS);
}

int main(void)
{
    ktap_plan(9);
    set_trap_entry(TRAP_GP, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(to_non_canonical, NULL);
    ok_value(raw.count, 1, "a non-canonical rip is #GP");
    ok_value(raw.word[2], 0, "with error code 0");
    ok_value(raw.word[3], 0x800000000000, "at that rip");
    ok(raw.word[5] & FLAGS_CF, "with the flags that were asked for");
    raw_run(to_bad_cs, NULL);
    ok_value(raw.count, 2, "a CS without a descriptor is #GP");
    ok_value(raw.word[2], 0x1230, "that names it");
    raw_run(to_bad_ss, NULL);
    ok_value(raw.word[2], 0x1230, "an SS too");
    raw_run(to_null_cs, NULL);
    ok_value(raw.count, 4, "a null CS is #GP");
    ok_value(raw.word[2], 0, "with error code 0");
    return 0;
}
