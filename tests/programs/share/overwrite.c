// cowbird: description = each call that can overwrite an entry drops the shared frame's count
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/*
 * design.md section 4, "every way a reference goes away counts". Two pages share a frame; one is
 * overwritten in each of the ways, then the other: only then the frame is gone.
 */

#include "share_test.h"

static void by_update_va_mapping(char *page, mfn_t frame)
{
    HYPERVISOR_update_va_mapping((unsigned long)page, make_pte(frame, PTE_RW), UVMF_INVLPG);
}

static void by_otherdomain(char *page, mfn_t frame)
{
    HYPERVISOR_update_va_mapping_otherdomain((unsigned long)page, make_pte(frame, PTE_RW),
                                             UVMF_INVLPG, DOMID_SELF);
}

static void by_mmu_update(char *page, mfn_t frame)
{
    pte_write(pte_maddr(page), make_pte(frame, PTE_RW));
    flush_page(page);
}

static void by_preserve_ad(char *page, mfn_t frame)
{
    pte_write(pte_maddr(page) | MMU_PT_UPDATE_PRESERVE_AD, make_pte(frame, PTE_RW));
    flush_page(page);
}

static void by_multicall(char *page, mfn_t frame)
{
    struct multicall_entry call = {
        .op = __HYPERVISOR_update_va_mapping,
        .args = {(unsigned long)page, HYPERCALL_U64(make_pte(frame, PTE_RW)), UVMF_INVLPG},
    };

    HYPERVISOR_multicall(&call, 1);
}

static void by_clearing(char *page, mfn_t frame)
{
    pte_write(pte_maddr(page), 0);
    by_update_va_mapping(page, frame);
}

static const struct {
    void (*overwrite)(char *page, mfn_t frame);
    const char *name;
} ways[] = {
    {by_update_va_mapping, "update_va_mapping"},
    {by_otherdomain, "update_va_mapping_otherdomain"},
    {by_mmu_update, "mmu_update"},
    {by_preserve_ad, "mmu_update, A and D preserved"},
    {by_multicall, "multicall"},
    {by_clearing, "mmu_update with 0"},
};

int main(void)
{
    ktap_plan(3 * ARRAY_SIZE(ways));
    for (unsigned int i = 0; i < ARRAY_SIZE(ways); i++) {
        char *a, *b;
        mfn_t frame = shared_pair(i, &a, &b);

        ways[i].overwrite(a, new_frame(a));
        ok(va_mfn(a) != frame && may_map(frame), "%s: count 2 to 1", ways[i].name);
        ways[i].overwrite(b, new_frame(b));
        ok(va_mfn(b) != frame && !may_map(frame), "count 1 to 0");
        ok_fault(probe_write(b), NO_FAULT, "and the new page is written");
    }
    return 0;
}
