// cowbird: description = the commands of mmu_update: normal, M2P, preserve A and D, no translate
// cowbird: environments = pv64, pv32, xen
/*
 * The command is in the lowest bits of the address; entries are 8 bytes, and there are 3 such bits.
 *
 * Source: xen.h (MMU_*); xen/arch/x86/mm.c (do_mmu_update).
 */
#include "cowbird.h"

int main(void)
{
    char *page = page_alloc(), *gone = page_alloc();
    const mfn_t mfn = va_mfn(page), free = va_mfn(gone);
    const uint64_t where = pte_maddr(page), inside = mfn << PAGE_SHIFT | 64;

    ktap_plan(18);
    page_release(gone);
    ok_result(pte_write(where | MMU_NORMAL_PT_UPDATE, make_pte(mfn, PTE_P | PTE_W)), 0, "normal");
    flush_page(page);
    ok_fault(probe_write(page), NO_FAULT, "a write sets A and D");
    ok_result(pte_write(where | MMU_PT_UPDATE_PRESERVE_AD, make_pte(mfn, PTE_P | PTE_W)), 0,
              "preserve");
    ok_value(pte_get(page) & (PTE_A | PTE_D), PTE_A | PTE_D, "they are still there");
    ok_result(pte_write(where, make_pte(mfn, PTE_P | PTE_W)), 0, "normal");
    ok_value(pte_get(page) & (PTE_A | PTE_D), 0, "they are gone");
    ok_result(pte_write(where | MMU_PT_UPDATE_PRESERVE_AD, make_pte(mfn, PTE_RW)), 0,
              "preserve, with both in the new entry");
    ok_value(pte_get(page) & (PTE_A | PTE_D), PTE_A | PTE_D, "they are added to the old one's");
    ok_result(pte_write(where | MMU_PT_UPDATE_NO_TRANSLATE, make_pte(mfn, PTE_RW)), 0,
              "no translate: as normal for a PV guest");

    ok_result(pte_write(mfn << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 77), 0, "M2P");
    ok_value(m2p[mfn], 77, "says so");
    ok_result(pte_write(mfn << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, va_pfn(page)), 0, "back");
    ok_result(pte_write(free << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 5), -EINVAL, "M2P of a free frame");

    ok_result(pte_write(inside, 0x1122334455667788), 0, "normal, in an ordinary page: a store");
    ok_value(((uint64_t *)page)[8], 0x1122334455667788, "is there");
    ok_result(pte_write(free << PAGE_SHIFT, 1), -EINVAL, "normal, in a free frame");
    ok_result(pte_write(inside | 4, 0), -ENOSYS, "bit 2: no such command");
    ok_value(((uint64_t *)page)[8], 0x1122334455667788, "nothing was stored");
    return 0;
}
