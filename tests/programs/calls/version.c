// cowbird: description = xen_version: what can be asked, by whom, and what is wrong with a question
// cowbird: environments = pv64, pv32, xen
/*
 * Source: version.h; xen/common/kernel.c (do_xen_version).
 */
#include "cowbird.h"

int main(void)
{
    void *const bad = (void *)0x0000800000000000;
    char *text = page_alloc();
    struct xen_feature_info info = {0};
    struct xen_platform_parameters parameters = {0};

    ktap_plan(16);
    ok_value(HYPERVISOR_xen_version(XENVER_version, NULL), 4 << 16 | 17, "version: 4.17");
    ok_value(HYPERVISOR_xen_version(XENVER_version, bad), 4 << 16 | 17, "it takes no pointer");
    ok_value(HYPERVISOR_xen_version(XENVER_pagesize, NULL), 4096, "pagesize");
    ok_result(HYPERVISOR_xen_version(XENVER_pagesize, text), -EINVAL, "it takes none either");
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, &info), 0, "get_features");
    ok(info.submap >> XENFEAT_mmu_pt_update_preserve_ad & 1, "PRESERVE_AD is offered");
    ok(!(info.submap >> XENFEAT_writable_page_tables & 1), "writable page tables are not");
    info.submap_idx = 100;
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, &info), -EINVAL, "no such submap");
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, bad), -EFAULT, "a bad pointer");
    ok_result(HYPERVISOR_xen_version(XENVER_platform_parameters, &parameters), 0, "parameters");
    ok_value(parameters.virt_start, HYPERVISOR_VIRT_START, "where Xen starts");
    ok_result(HYPERVISOR_xen_version(XENVER_capabilities, text), 0, "capabilities");
    ok(!strncmp(text, "xen-3.0-x86_64", 14), "64-bit PV");
    ok_result(HYPERVISOR_xen_version(XENVER_extraversion, bad), -EFAULT, "extraversion: bad pointer");
    ok_result(HYPERVISOR_xen_version(11, text), -ENOSYS, "no such question");
    ok_result(HYPERVISOR_xen_version(0xffffffff, text), -ENOSYS, "nor that");
    return 0;
}
