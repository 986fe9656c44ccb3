// cowbird: description = the forced emulation prefix: ud2, "xen", cpuid from kernel and user
// cowbird: environments = pv64, pv32, xen
/*
 * CPUID does not trap on every CPU, so Xen answers `ud2; .ascii "xen"; cpuid` with the domain's own
 * leaves (arch-x86/xen.h, XEN_EMULATE_PREFIX; arch-x86/cpuid.h).
 */

#include "cowbird.h"

struct leaf {
    uint32_t eax, ebx, ecx, edx;
};

static struct leaf xen_cpuid(uint32_t number)
{
    struct leaf leaf;

    __asm__ volatile("ud2a; .ascii \"xen\"; cpuid"
                     : "=a"(leaf.eax), "=b"(leaf.ebx), "=c"(leaf.ecx), "=d"(leaf.edx)
                     : "a"(number), "c"(0));
    return leaf;
}

static long user_cpuid(long number)
{
    return xen_cpuid((uint32_t)number).ebx;
}

static void wrong_prefix(void *unused)
{
    __asm__ volatile("ud2a; .ascii \"xem\"; cpuid" : : : "rax", "rbx", "rcx", "rdx");
}

static void prefix_nop(void *unused)
{
    __asm__ volatile("ud2a; .ascii \"xen\"; nop; nop");
}

int main(void)
{
    struct leaf leaf = xen_cpuid(0x40000000);
    long value = 0;

    ktap_plan(8);
    ok(!memcmp(&leaf.ebx, "XenVMMXenVMM", 12), "leaf 0x40000000: XenVMMXenVMM");
    ok(leaf.eax >= 0x40000002, "there are at least two more");
    leaf = xen_cpuid(0x40000001);
    ok_value(leaf.eax, HYPERVISOR_xen_version(XENVER_version, NULL), "0x40000001: the version");
    leaf = xen_cpuid(1);
    ok(leaf.ecx >> 31, "leaf 1: a hypervisor is present");
    ok_fault(user_run(user_cpuid, 0x40000000, &value), NO_FAULT, "user mode may ask");
    ok_value(value, 0x566e6558, "and gets the same");
    ok_fault(catch_fault(wrong_prefix, NULL), UD, "any other text behind ud2 is #UD");
    ok_fault(catch_fault(prefix_nop, NULL), UD, "so is any other instruction behind the prefix");
    return 0;
}
