// cowbird: description = FS and GS bases by set_segment_base and by MSR; GS changes with the mode
/*
 * A PV kernel cannot use SWAPGS: Xen exchanges the two GS bases whenever the guest's mode changes.
 * SEGBASE_GS_USER is the one of the other mode (xen-x86_64.h; Xen: do_set_segment_base,
 * toggle_guest_mode).
 */

#include "cowbird.h"

static uint64_t at_fs[2] = {0x11, 0x22}, at_gs[2] = {0x33, 0x44};
static __user_data uint64_t at_user_gs[2] = {0x55, 0x66};

static uint64_t fs_word(void)
{
    uint64_t value;

    __asm__ volatile("mov %%fs:8, %0" : "=r"(value));
    return value;
}

static uint64_t gs_word(void)
{
    uint64_t value;

    __asm__ volatile("mov %%gs:8, %0" : "=r"(value));
    return value;
}

static long user_gs_word(long unused)
{
    return (long)gs_word();
}

static uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(msr));
}

static void wrmsr_bad(void *unused)
{
    wrmsr(0xc0000100, 0x800000000000);
}

static void swapgs(void *unused)
{
    __asm__ volatile("swapgs");
}

#define BASE(what, array) HYPERVISOR_set_segment_base(what, (unsigned long)(array))

int main(void)
{
    long value = 0;

    ktap_plan(15);
    ok_result(BASE(SEGBASE_FS, at_fs), 0, "the FS base");
    ok_value(fs_word(), 0x22, "is used");
    ok_result(BASE(SEGBASE_GS_KERNEL, at_gs), 0, "the kernel's GS base");
    ok_value(gs_word(), 0x44, "is used");
    ok_result(BASE(SEGBASE_GS_USER, at_user_gs), 0, "the user's");
    ok_value(gs_word(), 0x44, "does not show yet");
    ok_fault(user_run(user_gs_word, 0, &value), NO_FAULT, "in user mode");
    ok_value(value, 0x66, "it does");
    ok_value(gs_word(), 0x44, "and back, the kernel's is in place");
    ok_result(BASE(SEGBASE_FS, 0x800000000000), -EINVAL, "a non-canonical base is refused");
    ok_result(HYPERVISOR_set_segment_base(9, 0), -EINVAL, "and an unknown register");
    wrmsr(0xc0000100, (uint64_t)(at_fs - 1));
    ok(fs_word() == 0x11 && rdmsr(0xc0000100) == (uint64_t)(at_fs - 1), "MSR_FS_BASE by wrmsr");
    ok(rdmsr(0xc0000101) == (uint64_t)at_gs && rdmsr(0xc0000102) == (uint64_t)at_user_gs,
       "MSR_GS_BASE and MSR_SHADOW_GS_BASE are the two");
    ok_fault(catch_fault(wrmsr_bad, NULL), GP(0), "wrmsr of a non-canonical base is #GP");
    ok_fault(catch_fault(swapgs, NULL), GP(0), "swapgs is #GP");
    return 0;
}
