// cowbird: description = xen_version: each question, and its errors
// cowbird: environments = pv64, pv32, xen
/* version.h and features.h; it presents itself as Xen 4.17. */

#include "cowbird.h"

static char text[1024];

static long ask(unsigned int what)
{
    memset(text, 1, sizeof(text));
    return HYPERVISOR_xen_version(what, text);
}

static bool terminated(unsigned int size)
{
    for (unsigned int i = 0; i < size; i++)
        if (!text[i])
            return true;
    return false;
}

int main(void)
{
    struct xen_feature_info info = {.submap_idx = 0};
    struct xen_platform_parameters parameters;

    ktap_plan(18);
    ok_value(HYPERVISOR_xen_version(XENVER_version, NULL), 4 << 16 | 17, "4.17");
    ok_result(ask(XENVER_extraversion), 0, "extraversion");
    ok(terminated(16), "is a string");
    ok_result(ask(XENVER_capabilities), 0, "capabilities");
    ok(terminated(1024) && !strncmp(text, "xen-3.0-x86_64", 14), "say that 64-bit PV guests run");
    ok_result(ask(XENVER_changeset), 0, "changeset");
    ok(terminated(64), "is a string");
    ok_result(ask(XENVER_compile_info), 0, "compile_info");
    ok_result(ask(XENVER_commandline), 0, "the command line");
    ok(terminated(1024), "is a string");
    ok_result(HYPERVISOR_xen_version(XENVER_platform_parameters, &parameters), 0, "parameters");
    ok_value(parameters.virt_start, HYPERVISOR_VIRT_START, "Xen's range begins there");
    ok_value(HYPERVISOR_xen_version(XENVER_pagesize, NULL), PAGE_SIZE, "pages of 4 KiB");
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, &info), 0, "features");
    ok(info.submap >> XENFEAT_mmu_pt_update_preserve_ad & 1 &&
       !(info.submap >> XENFEAT_auto_translated_physmap & 1), "PRESERVE_AD, and not translated");
    info.submap_idx = 1;
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, &info), -EINVAL, "one word of them");
    ok_result(HYPERVISOR_xen_version(99, NULL), -ENOSYS, "an unknown question");
    ok_result(HYPERVISOR_xen_version(XENVER_extraversion, (void *)0x5000), -EFAULT, "no room");
    return 0;
}
