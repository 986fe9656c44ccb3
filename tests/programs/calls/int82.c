// cowbird: description = int 0x82: six arguments, no other register changes, the page does the same, users may not
// cowbird: environments = pv32
/*
 * A 32-bit guest's hypercall: number in EAX, arguments in EBX ECX EDX ESI EDI EBP, the answer in
 * EAX. The gate is for ring 1.
 *
 * Source: arch-x86/xen-x86_32.h; xen/arch/x86/x86_64/compat/entry.S.
 */

#include "cowbird.h"

unsigned long after[6];

/* One hypercall with marks in all registers; how many of them have changed. */
static unsigned int changed(unsigned long number, unsigned long *answer)
{
    unsigned int count = 0;

    __asm__ volatile("push %%ebp\n"
                     "mov  $0x66, %%ebp\n"
                     "int  $0x82\n"
                     "mov  %%ebp, after+20\n"
                     "pop  %%ebp\n"
                     "mov  %%ebx, after\n"
                     "mov  %%ecx, after+4\n"
                     "mov  %%edx, after+8\n"
                     "mov  %%esi, after+12\n"
                     "mov  %%edi, after+16\n"
                     : "=a"(*answer)
                     : "a"(number), "b"(0x11), "c"(0x22), "d"(0x33), "S"(0x44), "D"(0x55)
                     : "memory", "cc");
    for (unsigned long i = 0; i < ARRAY_SIZE(after); i++)
        count += after[i] != 0x11 * (i + 1);
    return count;
}

static long user(long unused)
{
    __asm__ volatile("int $0x82" : : "a"(__HYPERVISOR_xen_version), "b"(0), "c"(0));
    return 0;
}

int main(void)
{
    unsigned long answer;
    uint16_t cs, ss, ds;

    ktap_plan(13);
    ok_value(changed(11, &answer), 0, "a number that is no hypercall: no register changes");
    ok_result(answer, -ENOSYS, "but EAX");
    ok_value(changed(__HYPERVISOR_xen_version, &answer), 0, "one that is refused: the same");
    ok_result(answer, -ENOSYS, "there is no version 0x11");
    ok_value(HYPERVISOR_xen_version(XENVER_version, NULL) >> 16, 4, "Xen 4");
    ok_value(hypercall_through_page(__HYPERVISOR_xen_version, XENVER_version, 0, 0),
             HYPERVISOR_xen_version(XENVER_version, NULL), "through the hypercall page: the same");
    ok_value(*(uint8_t *)(hypercall_page + 32 * 17), 0xb8, "whose stubs load EAX");
    ok_fault(user_run(user, 0, NULL), GP(0x82 << 3 | 2), "from ring 3 it is #GP with the IDT bit");

    __asm__("mov %%cs, %0; mov %%ss, %1; mov %%ds, %2" : "=r"(cs), "=r"(ss), "=r"(ds));
    ok_value(cs, FLAT_KERNEL_CS, "the kernel runs in ring 1");
    ok_value(ss, FLAT_KERNEL_SS, "on a stack segment of ring 1");
    ok_value(MACH2PHYS_VIRT_START, 0xf5800000, "the M2P is where the ABI has it");
    ok_value(m2p[va_mfn(pfn_va(0))], 0, "and says which PFN a frame is");
    ok_fault(probe_write((void *)MACH2PHYS_VIRT_START), PF(PF_P | PF_W), "but cannot be written");
    return 0;
}
