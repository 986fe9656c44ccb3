// cowbird: description = naming another domain's entries, frames or tables: refused
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share and two domains
// cowbird: domains = first, second
// cowbird: cmdline.first = first
// cowbird: cmdline.second = second
/* -EINVAL for an entry of another's table; -EPERM for DOMID_2 (Xen: get_pg_owner); nothing changes. */

#include "two_domains.h"

static void first(void)
{
    char *page = filled_page(1);

    ktap_plan(2);
    tell();
    wait();
    ok(pte_get(page) & PTE_W, "the first domain's entries are as they were");
    ok(page_check(page, 1), "and its contents");
}

static void second(void)
{
    char *page = filled_page(1);
    mfn_t frames = (mfn_t)HYPERVISOR_memory_op(XENMEM_maximum_ram_page, NULL);
    static struct share_req reqs[64];
    unsigned int done, refused = 0, other = 0;

    ktap_plan(6);
    wait();
    for (mfn_t mfn = 0; mfn < frames; mfn += 64) {
        for (unsigned int i = 0; i < 64; i++)
            reqs[i].ptr = (mfn + i) << PAGE_SHIFT | 511 << 3;
        HYPERVISOR_make_ro_and_share_batch(reqs, 64, &done, 0);
        for (unsigned int i = 0; i < 64; i++) {
            mfn_t at = mfn + i;
            bool own = m2p[at] < start_info->nr_pages && p2m[m2p[at]] == at;

            refused += reqs[i].status == -EINVAL;
            other += !own && reqs[i].status != -EINVAL;
        }
    }
    ok(refused > 1000, "almost every frame is no L1 table of this domain");
    ok_value(other, 0, "and none of another domain's is taken");
    ok_result(HYPERVISOR_update_va_mapping_otherdomain((unsigned long)page, 0, 0, 1), -EPERM,
              "update_va_mapping_otherdomain");
    {
        struct mmu_update update = {.ptr = pte_maddr(page), .val = pte_get(page)};

        ok_result(HYPERVISOR_mmu_update(&update, 1, NULL, 1), -EPERM, "mmu_update");
    }
    ok_result(HYPERVISOR_update_va_mapping_otherdomain((unsigned long)page, 0, 0, 99), -ESRCH,
              "there is no domain 99");
    ok(page_check(page, 1), "its own page is as it was");
    tell();
}

int main(void)
{
    meet();
    if (is_first())
        first();
    else
        second();
    return 0;
}
