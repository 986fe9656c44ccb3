// cowbird: description = memory_op's questions: reservations, highest numbers, the M2P; bad pointers
// cowbird: environments = pv64, pv32, xen
/*
 * Source: memory.h; xen/common/memory.c; xen/arch/x86/mm.c (arch_memory_op).
 */
#include "cowbird.h"

static struct xen_memory_domain self = {.domid = DOMID_SELF}, nobody = {.domid = 1234};

static long ask(unsigned int command, void *argument)
{
    return HYPERVISOR_memory_op(command, argument);
}

int main(void)
{
    void *const bad = (void *)0x0000800000000000;
    struct xen_machphys_mapping mapping = {0};
    xen_pfn_t first = 0;
    struct xen_machphys_mfn_list list = {.max_extents = 1, .extent_start = &first};
    long current = ask(XENMEM_current_reservation, &self);

    ktap_plan(18);
    ok(current > 0, "current_reservation");
    ok(ask(XENMEM_maximum_reservation, &self) >= current, "maximum_reservation is not less");
    ok((unsigned long)current >= start_info->nr_pages, "nr_pages of start_info neither");
    ok_result(ask(XENMEM_current_reservation, &nobody), -ESRCH, "current: no such domain");
    ok_result(ask(XENMEM_maximum_reservation, &nobody), -ESRCH, "maximum: no such domain");
    ok_result(ask(XENMEM_current_reservation, bad), -EFAULT, "current: a bad pointer");
    ok_result(ask(XENMEM_maximum_reservation, NULL), -EFAULT, "maximum: NULL");
    ok_result(ask(XENMEM_maximum_gpfn, bad), -EFAULT, "maximum_gpfn: a bad pointer");
    ok((unsigned long)ask(XENMEM_maximum_ram_page, NULL) > l4_current(), "maximum_ram_page");
    ok_result(ask(XENMEM_machphys_mapping, &mapping), 0, "machphys_mapping");
    ok_value(mapping.v_start, MACH2PHYS_VIRT_START, "where it starts");
    ok_value(mapping.v_end, MACH2PHYS_VIRT_END, "where it ends");
    ok_result(ask(XENMEM_machphys_mapping, bad), -EFAULT, "machphys_mapping: a bad pointer");
    ok_result(ask(XENMEM_machphys_mfn_list, &list), 0, "machphys_mfn_list");
    ok_value(list.nr_extents, 1, "one entry");
    ok_result(ask(XENMEM_machphys_mfn_list, bad), -EFAULT, "machphys_mfn_list: a bad pointer");
    ok_result(ask(8, NULL), -ENOSYS, "8: no such question");
    ok_result(ask(63, NULL), -ENOSYS, "63: neither");
    return 0;
}
