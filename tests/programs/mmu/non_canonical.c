// cowbird: description = addresses that are not canonical: #GP, not #PF; and those of Xen: #PF
/*
 * Bits 63 to 47 of a linear address must be equal; otherwise there is no walk. An access through
 * RSP or RBP is #SS on hardware, but #GP in QEMU: see traps/stack_fault.
 * Xen's own range is canonical: a page fault, whatever is mapped there.
 *
 * Source: Intel SDM 1, 3.3.7.1, and volume 2 (exceptions of MOV, CALL).
 */
#include "cowbird.h"

static uint64_t xens = HYPERVISOR_VIRT_START + (5UL << 39);

int main(void)
{
    char *low = (char *)0x0000800000000000, *high = (char *)0xffff7fffffffffff;
    fault_t fault;

    ktap_plan(11);
    ok_fault(probe_read(low), GP(0), "read, first address that is not canonical");
    ok_fault(probe_write(high), GP(0), "write, last one");
    ok_fault(probe_read(low - 1), PF(0), "read, last one of the lower half");
    ok_fault(probe_exec(low), GP(0), "fetch");
    ok_value(last_fault()->cr2, 0, "CR2 has no part in it");
    ok_fault(user_read(low), GP(0), "read, in user mode");
    fault = probe_write((void *)xens);
    ok(fault_vector(fault) == TRAP_PF, "a write to Xen's memory is a page fault");
    ok_value(fault_error(fault) & ~PF_P, PF_W, "a write");
    ok_value(last_fault()->cr2, xens, "CR2");
    ok_result(HYPERVISOR_xen_version(XENVER_extraversion, low), -EFAULT, "a pointer to a hypercall");
    ok_result(HYPERVISOR_xen_version(XENVER_extraversion, (void *)xens), -EFAULT, "one into Xen");
    return 0;
}
