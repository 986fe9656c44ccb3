/* Direct paging: looking entries up, changing them, pages, frames, address spaces. */

#include "internal.h"

unsigned long *p2m;
const unsigned long *const m2p = (const unsigned long *)MACH2PHYS_VIRT_START;

static mfn_t current_l4;
static pfn_t next_page, end_of_pages; /* PFNs of the initial mapping not handed out yet */
static void *freed;                   /* pages given back, chained through their first word */

/* Where table_read() maps a table that lies outside the initial mapping, for a moment. */
static char peep_page[PAGE_SIZE] __attribute__((aligned(4096), section(".bss.page_aligned")));
static mfn_t peep_home;

pfn_t va_pfn(const volatile void *va)
{
    return ((unsigned long)va - VIRT_BASE) >> PAGE_SHIFT;
}

void *pfn_va(pfn_t pfn)
{
    return (void *)(VIRT_BASE + (pfn << PAGE_SHIFT));
}

void paging_start(unsigned long boot_stack_top)
{
    p2m = (unsigned long *)start_info->mfn_list;
    current_l4 = p2m[va_pfn((void *)start_info->pt_base)];
    peep_home = p2m[va_pfn(peep_page)];
    next_page = va_pfn((void *)(boot_stack_top + PAGE_MASK));
    end_of_pages = next_page;
    while (end_of_pages < start_info->nr_pages && (pte_get(pfn_va(end_of_pages)) & PTE_P))
        end_of_pages++;
}

/* --- looking --- */

pte_t table_read(mfn_t mfn, unsigned int index)
{
    pfn_t pfn = m2p[mfn];
    pte_t entry;

    if (pfn < (end_of_pages ? end_of_pages : start_info->nr_pages) && p2m[pfn] == mfn)
        return ((const volatile pte_t *)pfn_va(pfn))[index];
    if (HYPERVISOR_update_va_mapping((unsigned long)peep_page, make_pte(mfn, PTE_RO), UVMF_INVLPG))
        panic("frame %#lx cannot be read as a table", mfn);
    entry = ((const volatile pte_t *)peep_page)[index];
    /* The mapping must not stay: it would count as a reference to the frame. */
    HYPERVISOR_update_va_mapping((unsigned long)peep_page, make_pte(peep_home, PTE_RW),
                                 UVMF_INVLPG);
    return entry;
}

/* The table at `level` on the way to `va`: its frame, or INVALID_MFN. */
static mfn_t table_of(mfn_t l4, const volatile void *va, int level)
{
    mfn_t table = level <= TOP_LEVEL ? l4 : INVALID_MFN;

    for (int at = TOP_LEVEL; at > level; at--) {
        pte_t entry = table_read(table, table_index(va, at));

        if (!(entry & PTE_P) || (at < TOP_LEVEL && entry & PTE_PS))
            return INVALID_MFN;
        table = pte_mfn(entry);
    }
    return table;
}

pte_t pte_get_at(mfn_t l4, const volatile void *va, int level)
{
    mfn_t table = table_of(l4, va, level);

    return table == INVALID_MFN ? 0 : table_read(table, table_index(va, level));
}

pte_t pte_get(const volatile void *va)
{
    mfn_t table = current_l4;
    pte_t entry = 0;

    for (int level = TOP_LEVEL; level; level--) {
        entry = table_read(table, table_index(va, level));
        if (!(entry & PTE_P))
            return level == 1 ? entry : 0;
        if (level < TOP_LEVEL && level > 1 && entry & PTE_PS)
            break;
        table = pte_mfn(entry);
    }
    return entry;
}

/* Machine address of entry `index` of the table in frame `table`. */
static uint64_t entry_maddr(mfn_t table, unsigned int index)
{
    return (uint64_t)table << PAGE_SHIFT | index << 3;
}

uint64_t pte_maddr_at(mfn_t l4, const volatile void *va, int level)
{
    mfn_t table = table_of(l4, va, level);

    return table == INVALID_MFN ? 0 : entry_maddr(table, table_index(va, level));
}

uint64_t pte_maddr(const volatile void *va)
{
    return pte_maddr_at(current_l4, va, 1);
}

mfn_t va_mfn(const volatile void *va)
{
    pte_t entry = pte_get(va);

    return entry & PTE_P ? pte_mfn(entry) : INVALID_MFN;
}

/* --- changing --- */

long pte_set(const volatile void *va, pte_t entry)
{
    return HYPERVISOR_update_va_mapping((unsigned long)va, entry, UVMF_INVLPG);
}

long pte_protect(const volatile void *va, uint64_t flags)
{
    return pte_set(va, (pte_get(va) & (PTE_FRAME | PTE_AVL)) | flags);
}

long pte_write(uint64_t maddr, pte_t entry)
{
    const struct mmu_update update = {.ptr = maddr, .val = entry};

    return HYPERVISOR_mmu_update(&update, 1, NULL, DOMID_SELF);
}

long pte_map_at(mfn_t l4, const volatile void *va, pte_t entry)
{
    mfn_t table = l4;

    for (int level = TOP_LEVEL; level > 1; level--) {
        unsigned int index = table_index(va, level);
        pte_t upper = table_read(table, index);

        if (!(upper & PTE_P)) {
            char *page = page_alloc();
            mfn_t lower = va_mfn(page);
            long error = pte_protect(page, PTE_RO);

            if (!error)
                error = pte_write(entry_maddr(table, index), make_pte(lower, PTE_TABLE));
            if (error)
                return error;
            upper = make_pte(lower, PTE_TABLE);
        }
        table = pte_mfn(upper);
    }
    return pte_write(entry_maddr(table, table_index(va, 1)), entry);
}

long pte_map(const volatile void *va, pte_t entry)
{
    long error = pte_map_at(current_l4, va, entry);

    if (!error)
        flush_page(va);
    return error;
}

long mmuext(unsigned int command, unsigned long arg1, unsigned long arg2)
{
    const struct mmuext_op op = {.cmd = command, .arg1.mfn = arg1, .arg2.src_mfn = arg2};

    return HYPERVISOR_mmuext_op(&op, 1, NULL, DOMID_SELF);
}

long pin(mfn_t mfn, int level)
{
    return mmuext(MMUEXT_PIN_L1_TABLE + (unsigned int)level - 1, mfn, 0);
}

long unpin(mfn_t mfn)
{
    return mmuext(MMUEXT_UNPIN_TABLE, mfn, 0);
}

void flush_tlb(void)
{
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
}

void flush_page(const volatile void *va)
{
    mmuext(MMUEXT_INVLPG_LOCAL, (unsigned long)va, 0);
}

/* --- pages --- */

void *page_alloc(void)
{
    void *page = freed;

    if (page) {
        freed = *(void **)page;
        *(void **)page = NULL;
        return page;
    }
    if (next_page == end_of_pages)
        bail("no more pages in the initial mapping");
    page = pfn_va(next_page++);
    memset(page, 0, PAGE_SIZE);
    return page;
}

void page_free(void *page)
{
    memset(page, 0, PAGE_SIZE);
    *(void **)page = freed;
    freed = page;
}

unsigned int pages_left(void)
{
    unsigned int count = (unsigned int)(end_of_pages - next_page);

    for (void **page = freed; page; page = *page)
        count++;
    return count;
}

void page_fill_ret(void *page)
{
    memset(page, 0xc3, PAGE_SIZE);
}

/* Knuth's MMIX generator; two seeds never give the same page. */
static uint64_t next_word(uint64_t word)
{
    return word * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

void page_fill(void *page, uint64_t seed)
{
    uint64_t *words = page;

    for (unsigned int i = 0; i < PAGE_SIZE / 8; i++)
        words[i] = seed = next_word(seed);
}

bool page_check(const void *page, uint64_t seed)
{
    const volatile uint64_t *words = page;

    for (unsigned int i = 0; i < PAGE_SIZE / 8; i++) {
        seed = next_word(seed);
        if (words[i] != seed)
            return false;
    }
    return true;
}

long make_table(void *page, int level)
{
    long error = pte_protect(page, PTE_RO);

    return error ? error : pin(va_mfn(page), level);
}

long unmake_table(void *page)
{
    long error = unpin(va_mfn(page));

    return error ? error : pte_protect(page, PTE_RW);
}

mfn_t frame_populate(pfn_t pfn)
{
    xen_pfn_t extent = pfn;
    struct xen_memory_reservation reservation = {
        .extent_start = &extent,
        .nr_extents = 1,
        .domid = DOMID_SELF,
    };

    if (HYPERVISOR_memory_op(XENMEM_populate_physmap, &reservation) != 1)
        return INVALID_MFN;
    p2m[pfn] = extent;
    return extent;
}

long frame_release(mfn_t mfn)
{
    xen_pfn_t extent = mfn;
    struct xen_memory_reservation reservation = {
        .extent_start = &extent,
        .nr_extents = 1,
        .domid = DOMID_SELF,
    };
    long done = HYPERVISOR_memory_op(XENMEM_decrease_reservation, &reservation);

    return done == 1 ? 0 : done < 0 ? done : -EBUSY;
}

long page_release(void *page)
{
    mfn_t mfn = va_mfn(page);
    long error = pte_set(page, 0);

    if (error)
        return error;
    p2m[va_pfn(page)] = INVALID_MFN;
    return frame_release(mfn);
}

long page_populate(void *page)
{
    mfn_t mfn = frame_populate(va_pfn(page));
    long error;

    if (mfn == INVALID_MFN)
        return -ENOMEM;
    error = pte_set(page, make_pte(mfn, PTE_RW));
    if (!error)
        memset(page, 0, PAGE_SIZE);
    return error;
}

long page_unshare(void *page)
{
    static char copy[PAGE_SIZE] __attribute__((aligned(4096), section(".bss.page_aligned")));
    long error;

    memcpy(copy, page, PAGE_SIZE);
    error = page_populate(page);
    if (!error)
        memcpy(page, copy, PAGE_SIZE);
    return error;
}

void *window_alloc(void)
{
    void *page = page_alloc();
    long error = pte_set(page, 0);

    if (error)
        bail("a page cannot be unmapped: %pe", ERR(error));
    return page;
}

/* --- address spaces --- */

mfn_t l4_current(void)
{
    return current_l4;
}

long l4_load(mfn_t l4)
{
    long error = mmuext(MMUEXT_NEW_BASEPTR, l4, 0);

    if (!error)
        current_l4 = l4;
    return error;
}

#ifdef __x86_64__
mfn_t l4_new(void)
{
    pte_t *table = page_alloc();
    mfn_t mfn = va_mfn(table);

    for (unsigned int slot = 0; slot < 512; slot++)
        if (slot < L4_XEN_FIRST || slot > L4_XEN_LAST)
            table[slot] = table_read(current_l4, slot) & ~(PTE_A | PTE_D);
    return make_table(table, 4) ? INVALID_MFN : mfn;
}
#else
mfn_t l4_new(void)
{
    pte_t *table = page_alloc(), *kernel = page_alloc();
    mfn_t mfn = va_mfn(table), kernel_mfn = va_mfn(kernel);
    mfn_t current = pte_mfn(table_read(current_l4, L3_XEN));

    for (unsigned int slot = 0; slot < L3_XEN; slot++)
        table[slot] = table_read(current_l4, slot);
    for (unsigned int slot = 0; slot < L2_XEN_FIRST; slot++)
        kernel[slot] = table_read(current, slot);
    table[L3_XEN] = make_pte(kernel_mfn, PTE_P);
    if (pte_protect(kernel, PTE_RO))
        return INVALID_MFN;
    return make_table(table, 3) ? INVALID_MFN : mfn;
}
#endif
