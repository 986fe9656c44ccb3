// cowbird: description = the kit's paging helpers: rights, faults, tables, frames, address spaces

#include "cowbird.h"

static void rights(void)
{
    char *page = page_alloc();

    ok_result(pte_protect(page, PTE_RO), 0, "a page is made read-only");
    ok_fault(probe_write(page + 5), PF(PF_P | PF_W), "a write: present, write; no U in kernel mode");
    ok_value(last_fault()->cr2, page + 5, "CR2 is the address");
    ok_fault(probe_read(page), NO_FAULT, "a read");
    ok_result(pte_set(page, 0), 0, "the page is unmapped");
    ok_fault(probe_read(page), PF(0), "a read of nothing");
    ok_fault(probe_write(page), PF(PF_W), "a write to nothing");
    ok_result(pte_set(page, make_pte(p2m[va_pfn(page)], PTE_RW | PTE_NX)), 0, "mapped, NX");
    page_fill_ret(page);
    ok_fault(probe_exec(page), PF(PF_P | PF_I), "a fetch: present, fetch");
    ok_result(pte_protect(page, PTE_RW), 0, "executable");
    ok_fault(probe_exec(page), NO_FAULT, "a fetch");
    ok_value(pte_get(page) & (PTE_W | PTE_NX | PTE_A | PTE_D), PTE_W | PTE_A | PTE_D, "its entry");
    ok_value(m2p[va_mfn(page)], va_pfn(page), "its M2P entry");
}

static void tables(void)
{
    char *page = page_alloc();

    ok_result(pin(va_mfn(page), 1), -EINVAL, "a writable page cannot be pinned");
    ok_result(make_table(page, 1), 0, "a read-only one can");
    ok_result(pte_protect(page, PTE_RW), -EBUSY, "a table cannot be mapped writable");
    ok_fault(probe_write((void *)start_info->pt_base), PF(PF_P | PF_W), "nor an L4 written");
    ok_result(pte_write(va_mfn(page) << PAGE_SHIFT | 8, 0x123456), 0, "by mmu_update it can");
    ok_value(table_read(va_mfn(page), 1), 0x123456, "and reads so");
    ok_result(pte_write(va_mfn(page) << PAGE_SHIFT | 8, 0), 0, "cleared");
    ok_result(unmake_table(page), 0, "unpinned, it is a page again");
    ok_fault(probe_write(page), NO_FAULT, "and written");
    page_free(page);
    ok(page_alloc() == page, "a page given back comes again");
    ok_value(*(uint64_t *)page, 0, "zeroed");
}

static void frames(void)
{
    char *page = page_alloc();
    char *far = (char *)0x123456789000;

    page_fill(page, 7);
    ok(page_check(page, 7) && !page_check(page, 8), "patterns are told apart");
    ok_result(pte_map(far, make_pte(va_mfn(page), PTE_RO)), 0, "mapped far away, tables made");
    ok_bytes(far, page, PAGE_SIZE, "the same bytes");
    ok_value(va_mfn(far), va_mfn(page), "the same frame");
    ok_result(pte_map(far, 0), 0, "unmapped there");
    ok_fault(probe_read(far), PF(0), "and gone");
    ok_result(page_release(page), 0, "the frame goes back to Xen");
    ok_fault(probe_read(page), PF(0), "nothing is there");
    ok_result(page_populate(page), 0, "a new one comes");
    ok_value(*(uint64_t *)page, 0, "zeroed");
    ok_value(p2m[va_pfn(page)], va_mfn(page), "and is in the P2M");
}

static void address_spaces(void)
{
    mfn_t before = l4_current(), after = l4_new();
    char *window = window_alloc();

    ok(after != INVALID_MFN, "a second L4");
    ok_result(l4_load(after), 0, "is loaded");
    ok_value(l4_current(), after, "and current");
    ok_fault(probe_read(window), PF(0), "the rest is as it was");
    ok_result(l4_load(before), 0, "and back");
    ok_result(unpin(after), 0, "unpinned");
}

static void nested(void *argument)
{
    *(fault_t *)argument = probe_read((void *)0x5000);
    __asm__ volatile("ud2");
}

static bool skip_ud2(struct regs *regs)
{
    regs->rip += 2;
    return true;
}

static void traps(void)
{
    fault_t inner = NO_FAULT;

    ok_fault(catch_fault(nested, &inner), UD, "a fault in a function");
    ok_fault(inner, PF(0), "and one caught inside it");
    ok(!set_handler(TRAP_UD, skip_ud2), "a handler");
    ok_fault(catch_fault(nested, &inner), NO_FAULT, "goes before");
    ok(set_handler(TRAP_UD, NULL) == skip_ud2, "and is taken away");
    ok_fault(catch_fault(nested, &inner), UD, "a fault again");
}

int main(void)
{
    ktap_plan(13 + 11 + 11 + 6 + 6);
    rights();
    tables();
    frames();
    address_spaces();
    traps();
    return 0;
}
