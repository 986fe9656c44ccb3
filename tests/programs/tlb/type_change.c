// cowbird: description = no flush of the guest's: what becomes a page table is not written through the TLB
/*
 * The guest may forget to flush after it took rights away; Xen must not: before a frame is used as
 * a page table, no CPU may still hold a writable translation of it, and before a table is plain
 * memory again none that came from it. (An L2 table: stores to L1 tables of the first domain are
 * emulated.)
 *
 * Source: xen/arch/x86/mm.c (get_page_type and its flush when the type changes).
 */
#include "cowbird.h"

static char *page;

static void touch(void)
{
    *(volatile char *)page = 0; /* the translation is in the TLB, writable */
}

static void check(const char *how, long answer)
{
    ok_result(answer, 0, "%s: read-only", how);
    ok_result(pin(va_mfn(page), 2), 0, "%s: pinned as a table, without a flush", how);
    ok_fault(probe_write(page), PF(PF_P | PF_W), "%s: a write faults", how);
    ok_value(*(volatile uint64_t *)page, 0, "%s: and changed nothing", how);
    ok_result(unpin(va_mfn(page)), 0, "%s: unpinned", how);
    ok_result(pte_protect(page, PTE_RW), 0, "%s: writable again", how);
}

int main(void)
{
    struct mmu_update batch[2];
    struct multicall_entry calls[2];
    char *alias = window_alloc();
    pte_t read_only;
    mfn_t frame;

    page = page_alloc();

    frame = va_mfn(page);
    read_only = make_pte(frame, PTE_RO);
    ktap_plan(38);

    touch();
    check("update_va_mapping", HYPERVISOR_update_va_mapping((unsigned long)page, read_only, 0));
    touch();
    check("mmu_update", pte_write(pte_maddr(page), read_only));
    touch();
    batch[0] = (struct mmu_update){pte_maddr(page), 0};
    batch[1] = (struct mmu_update){pte_maddr(page), read_only};
    check("mmu_update twice", HYPERVISOR_mmu_update(batch, 2, NULL, DOMID_SELF));
    touch();
    memset(calls, 0, sizeof(calls));
    calls[0].op = __HYPERVISOR_update_va_mapping;
    calls[0].args[0] = (unsigned long)page;
    calls[0].args[1] = read_only;
    check("multicall", HYPERVISOR_multicall(calls, 1));

    /* By another address, which is given up without a flush. */
    ok_result(pte_map(alias, make_pte(frame, PTE_RW)), 0, "a second mapping");
    *(volatile char *)alias = 0;
    ok_result(pte_write(pte_maddr(alias), 0), 0, "given up");
    ok_result(pte_write(pte_maddr(page), read_only), 0, "the first read-only");
    ok_result(pin(frame, 2), 0, "pinned, without a flush");
    ok_fault(probe_write(alias), PF(PF_W), "the second faults");
    ok_value(*(volatile uint64_t *)page, 0, "and changed nothing");
    ok_result(unpin(frame), 0, "unpinned");
    ok_result(pte_protect(page, PTE_RW), 0, "writable again");

    /* A table that is taken out and given back its rights: nothing is translated by it any more. */
    {
        char *where = (char *)0x410000000000;
        char *data = page_alloc();
        pte_t *entries;
        uint64_t entry;

        *data = 'd';
        ok_result(pte_map(where, make_pte(va_mfn(data), PTE_RW)), 0, "a page by a table of its own");
        ok_value(*(volatile char *)where, 'd', "is read");
        entry = pte_get_at(l4_current(), where, 2);
        entries = (pte_t *)pfn_va(m2p[pte_mfn(entry)]);
        ok_result(pte_write(pte_maddr_at(l4_current(), where, 2), 0), 0, "the table is taken out");
        unpin(pte_mfn(entry));
        ok_result(pte_protect(entries, PTE_RW), 0, "and is plain memory");
        entries[0] = 0;
        ok_fault(probe_read(where), PF(0), "nothing is there");
        ok_result(pte_protect(entries, PTE_RO), 0, "read-only again");
    }

    return 0;
}
