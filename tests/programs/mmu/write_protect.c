// cowbird: description = CR0.WP: a read-only page is read-only for the kernel and for Xen
// cowbird: environments = pv64, pv32, xen
/*
 * A PV kernel runs in ring 3, where read-only always holds, or in ring 1, where it holds with WP; Xen
 * runs with WP set. What a
 * kernel reads from CR0 shows WP, and clearing it is refused or has no effect.
 *
 * Source: Intel SDM 3A, 4.6; xen/arch/x86/pv/emul-priv-op.c (read_cr).
 */
#include "cowbird.h"

#define CR0_WP (1UL << 16)

static unsigned long cr0;

static void read_cr0(void *unused)
{
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
}

static void clear_wp(void *unused)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 & ~CR0_WP));
}

int main(void)
{
    char *page = page_alloc();
    struct xen_feature_info *info = (struct xen_feature_info *)page;

    ktap_plan(9);
    ok_fault(catch_fault(read_cr0, NULL), NO_FAULT, "CR0 can be read");
    ok_value(cr0 & CR0_WP, CR0_WP, "WP is set");
    catch_fault(clear_wp, NULL);
    catch_fault(read_cr0, NULL);
    ok_value(cr0 & CR0_WP, CR0_WP, "and cannot be cleared");
    info->submap = 0x1234;
    ok_result(pte_protect(page, PTE_RO), 0, "a read-only page");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "the kernel cannot write it");
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, info), -EFAULT, "nor can Xen for it");
    ok_value(info->submap, 0x1234, "nothing changed");
    ok_result(pte_protect(page, PTE_RW), 0, "writable");
    ok_result(HYPERVISOR_xen_version(XENVER_get_features, info), 0, "it can");
    return 0;
}
