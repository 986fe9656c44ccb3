// cowbird: description = CR0 to CR8, CLTS, WBINVD, INVLPG, LMSW, MSRs: what is emulated for the kernel
/*
 * Source: xen/arch/x86/pv/emul-priv-op.c (read_cr, write_cr, read_msr, write_msr).
 */
#include "cowbird.h"

static uint64_t value;
static uint32_t number;

#define DO(name, code, ...)                                                                    \
    static void name(void *unused)                                                             \
    {                                                                                          \
        __asm__ volatile(code __VA_ARGS__ : "memory");                                         \
    }

DO(read_cr0, "movq %%cr0, %0", : "=r"(value) :)
DO(read_cr2, "movq %%cr2, %0", : "=r"(value) :)
DO(read_cr3, "movq %%cr3, %0", : "=r"(value) :)
DO(read_cr4, "movq %%cr4, %0", : "=r"(value) :)
DO(read_cr8, "movq %%cr8, %0", : "=r"(value) :)
DO(write_cr0, "movq %0, %%cr0", : : "r"(value))
DO(write_cr2, "movq %0, %%cr2", : : "r"(value))
DO(write_cr3, "movq %0, %%cr3", : : "r"(value))
DO(write_cr8, "movq %0, %%cr8", : : "r"(value))
DO(clts, "clts", : :)
DO(wbinvd, "wbinvd", : :)
DO(invd, "invd", : :)
DO(invlpg, "invlpg (%0)", : : "r"(&value))
DO(lmsw, "lmsw %w0", : : "r"(value))
DO(lgdt, "lgdt (%0)", : : "r"(&value))
DO(lidt, "lidt (%0)", : : "r"(&value))
DO(ltr, "ltr %w0", : : "r"(0))
DO(lldt, "lldt %w0", : : "r"(0))
DO(swapgs, "swapgs", : :)
DO(hlt, "hlt", : :)
DO(sysret, "sysretq", : :)

static void rdmsr(void *unused)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    value = (uint64_t)high << 32 | low;
}

static void wrmsr(void *unused)
{
    __asm__ volatile("wrmsr" : : "c"(number), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static void fnop(void *unused)
{
    __asm__ volatile("fnop");
}

static fault_t run(void (*function)(void *))
{
    return catch_fault(function, NULL);
}

static fault_t msr(void (*function)(void *), uint32_t which)
{
    number = which;
    return catch_fault(function, NULL);
}

int main(void)
{
    ktap_plan(68);
    ok_fault(run(read_cr0), NO_FAULT, "CR0 is read");
    ok_value(value & 0x80000001, 0x80000001, "PG and PE");
    ok_value(value & 8, 0, "TS is clear");
    value |= 8;
    ok_fault(run(write_cr0), NO_FAULT, "TS is set by CR0");
    run(read_cr0);
    ok_value(value & 8, 8, "and read");
    ok_fault(run(fnop), FAULT(TRAP_NM, 0), "and has its effect");
    run(read_cr0);
    ok_value(value & 8, 0, "once");
    value ^= 0x10000;
    ok_fault(run(write_cr0), GP(0), "other bits of CR0 are not to be changed");
    run(read_cr0);
    value |= 8;
    run(write_cr0);
    ok_fault(run(clts), NO_FAULT, "clts");
    ok_fault(run(fnop), NO_FAULT, "clears it");
    value = 0x123456789;
    ok_fault(run(write_cr2), NO_FAULT, "CR2 is written");
    value = 0;
    ok_fault(run(read_cr2), NO_FAULT, "and read");
    ok_value(value, 0x123456789, "as it is");
    ok_value(shared_info->vcpu_info[0].arch.cr2, 0x123456789, "also in shared_info");
    ok_fault(run(read_cr3), NO_FAULT, "CR3 is read");
    ok_value(value >> PAGE_SHIFT, l4_current(), "the machine frame of the L4");
    ok_fault(run(write_cr3), NO_FAULT, "and written");
    value = va_mfn(&value) << PAGE_SHIFT;
    ok_fault(run(write_cr3), GP(0), "but not with a page that is no L4");
    ok_fault(run(read_cr4), NO_FAULT, "CR4 is read");
    ok_value(value & 0x20, 0x20, "PAE");
    ok_fault(run(read_cr8), GP(0), "there is no CR8");
    ok_fault(run(write_cr8), GP(0), "to write either");
    ok_fault(run(wbinvd), NO_FAULT, "wbinvd");
    ok_fault(run(invd), GP(0), "invd");
    ok_fault(run(invlpg), GP(0), "invlpg");
    value = 1;
    ok_fault(run(lmsw), GP(0), "lmsw");
    ok_fault(run(lgdt), GP(0), "lgdt");
    ok_fault(run(lidt), GP(0), "lidt");
    ok_fault(run(ltr), GP(0), "ltr");
    ok_fault(run(lldt), GP(0), "lldt");
    ok_fault(run(swapgs), GP(0), "swapgs");
    ok_fault(run(hlt), GP(0), "hlt");
    ok_fault(run(sysret), GP(0), "sysret");

    ok_fault(msr(rdmsr, 0xc0000080), NO_FAULT, "EFER");
    ok_value(value & 0x501, 0x501, "SCE, LME and LMA");
    ok_fault(msr(wrmsr, 0xc0000080), NO_FAULT, "may be written as it is");
    value ^= 1;
    ok_fault(msr(wrmsr, 0xc0000080), GP(0), "and not otherwise");
    ok_fault(msr(rdmsr, 0x1b), NO_FAULT, "the APIC base");
    ok_fault(msr(wrmsr, 0x1b), GP(0), "not written even as it is");
    ok_fault(msr(rdmsr, 0x277), NO_FAULT, "PAT");
    ok_value(value, 0x050100070406, "as Xen has it");
    ok_fault(msr(wrmsr, 0x277), GP(0), "nor that");
    value = 0x0007040600070406;
    ok_fault(msr(wrmsr, 0x277), GP(0), "and not otherwise");
    ok_fault(msr(rdmsr, 0x10), NO_FAULT, "the TSC");
    ok_fault(msr(wrmsr, 0x10), GP(0), "is not set");
    value = 0x1234;
    ok_fault(msr(wrmsr, 0xc0000103), NO_FAULT, "TSC_AUX is");
    ok_fault(msr(rdmsr, 0xc0000103), NO_FAULT, "and read");
    ok_value(value, 0x1234, "as it is");
    __asm__ volatile("rdtscp" : "=c"(value) : : "rax", "rdx");
    ok_value((uint32_t)value, 0x1234, "also by rdtscp");
    value = 1UL << 32;
    ok_fault(msr(wrmsr, 0xc0000103), GP(0), "it has 32 bits");
    value = 0;
    ok_fault(msr(wrmsr, 0x8b), NO_FAULT, "0 into the microcode's version");
    value = 1;
    ok_fault(msr(wrmsr, 0x8b), GP(0), "and nothing else");
    ok_fault(msr(wrmsr, 0xe7), NO_FAULT, "MPERF is ignored");
    ok_fault(msr(rdmsr, 0x179), NO_FAULT, "machine checks");
    ok_value(value & 0xff, 2, "of two banks");
    ok_fault(msr(rdmsr, 0x403), NO_FAULT, "the first");
    ok_fault(msr(rdmsr, 0x47f), NO_FAULT, "of those that there are not too");
    ok_value(value, 0, "nothing");
    ok_fault(msr(wrmsr, 0x408), NO_FAULT, "to be written");
    ok_fault(msr(rdmsr, 0x480), GP(0), "and behind them");
    ok_fault(msr(wrmsr, 0x17), GP(0), "the platform is not changed");
    ok_fault(msr(rdmsr, 0xc0000102), NO_FAULT, "the kernel's GS base");
    ok_fault(msr(rdmsr, 0xc0000081), GP(0), "STAR");
    ok_fault(msr(rdmsr, 0xc0000082), GP(0), "LSTAR");
    ok_fault(msr(rdmsr, 0x174), GP(0), "SYSENTER_CS");
    ok_fault(msr(rdmsr, 0x12345678), GP(0), "no such register");
    ok_fault(msr(wrmsr, 0x12345678), GP(0), "to write either");
    ok_fault(msr(wrmsr, 0xc0000082), GP(0), "LSTAR");
    return 0;
}
