/* What the programs about sharing have in common. */

#ifndef SHARE_TEST_H
#define SHARE_TEST_H

#include "cowbird.h"

/* The call, with AVL bit 9 as a mark. */
static inline long share(const volatile void *page)
{
    return HYPERVISOR_make_ro_and_share((unsigned long)page, PTE_AVL0, UVMF_INVLPG);
}

/* A page of page_alloc() with the contents that `seed` decides. */
static inline void *filled_page(uint64_t seed)
{
    void *page = page_alloc();

    page_fill(page, seed);
    return page;
}

/* Frames that the domain owns (XENMEM_current_reservation). */
static inline long reservation(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return HYPERVISOR_memory_op(XENMEM_current_reservation, &self);
}

/* Two pages of equal contents, both shared: *a and *b map one frame with count 2. */
static inline mfn_t shared_pair(uint64_t seed, char **a, char **b)
{
    *a = filled_page(seed);
    *b = filled_page(seed);
    if (share(*a) != 0 || share(*b) != 1)
        bail("the pages cannot be shared");
    return va_mfn(*a);
}

/* A new page for the place of a shared one: its frame, mapped nowhere else. */
static inline mfn_t new_frame(const void *page)
{
    mfn_t mfn = frame_populate(va_pfn(page));

    if (mfn == INVALID_MFN)
        bail("no frame");
    return mfn;
}

/* True if this domain may map the frame again: which it may only while it maps it already. */
static inline bool may_map(mfn_t mfn)
{
    static void *window;

    if (!window)
        window = window_alloc();
    if (pte_set(window, make_pte(mfn, PTE_RO)))
        return false;
    pte_set(window, 0);
    return true;
}

#endif
