// cowbird: description = L4 slots 256 to 271 are Xen's: not looked at, filled in, not to be changed
/*
 * Source: xen/arch/x86/include/asm/config.h (ROOT_PAGETABLE_FIRST_XEN_SLOT); pv/mm.h.
 */
#include "cowbird.h"

int main(void)
{
    char *table = page_alloc();
    uint64_t *words = (uint64_t *)table;
    const mfn_t mfn = va_mfn(table);
    unsigned int own = 0;

    ktap_plan(10);
    for (unsigned int slot = L4_XEN_FIRST; slot <= L4_XEN_LAST; slot++)
        words[slot] = 0xfffffffffffff001; /* no legal entry */
    words[255] = words[272] = 0x1234;     /* not present: the guest's own */
    ok_result(make_table(table, 4), 0, "rubbish there does no harm");
    for (unsigned int slot = L4_XEN_FIRST; slot <= L4_XEN_LAST; slot++)
        own += words[slot] == 0xfffffffffffff001;
    ok_value(own, 0, "it is overwritten");
    ok_value(words[255], 0x1234, "the slot before is not");
    ok_value(words[272], 0x1234, "nor the one behind");
    ok_result(pte_write(mfn << PAGE_SHIFT | 256 << 3, 0), -EINVAL, "it cannot be cleared");
    ok_result(pte_write(mfn << PAGE_SHIFT | 260 << 3, 0), -EINVAL, "nor another");
    ok_result(pte_write(mfn << PAGE_SHIFT | 271 << 3, 0x10), -EINVAL, "nor the last");
    ok_result(pte_write(mfn << PAGE_SHIFT | 272 << 3, 0x10), 0, "the next one can");
    ok_fault(probe_write((void *)MACH2PHYS_VIRT_START), PF(PF_P | PF_W), "the M2P is read-only");
    ok_value(m2p[mfn], va_pfn(table), "and right");
    return 0;
}
