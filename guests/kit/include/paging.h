/*
 * Direct paging: the page tables hold machine frames, may be read but not written, and change by
 * hypercalls only.
 *
 * Words: a PFN counts the domain's own pages, an MFN is a machine frame; p2m[pfn] is the MFN and
 * m2p[mfn] the PFN (mapped read-only by Xen). `va` is a pointer or number; entries are pte_t.
 *
 * The image and the pages of page_alloc() lie in the initial mapping: PFN p at VIRT_BASE + p*4096.
 */

#ifndef COWBIRD_PAGING_H
#define COWBIRD_PAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "xen.h"

#define PAGE_SIZE 4096UL
#define PAGE_SHIFT 12
#define PAGE_MASK (PAGE_SIZE - 1)

typedef uint64_t pte_t; /* at both widths: 32-bit guests use PAE; printed with PRIx64 */
typedef unsigned long mfn_t;
typedef unsigned long pfn_t;

#define PTE_P UINT64_C(0x001)
#define PTE_W UINT64_C(0x002)
#define PTE_U UINT64_C(0x004)
#define PTE_PWT UINT64_C(0x008)
#define PTE_PCD UINT64_C(0x010)
#define PTE_A UINT64_C(0x020)
#define PTE_D UINT64_C(0x040)
#define PTE_PS UINT64_C(0x080)  /* L2, L3: a superpage */
#define PTE_PAT UINT64_C(0x080) /* L1 */
#define PTE_G UINT64_C(0x100)
#define PTE_AVL UINT64_C(0xe00) /* bits 9-11, the guest's own */
#define PTE_AVL0 UINT64_C(0x200)
#define PTE_AVL1 UINT64_C(0x400)
#define PTE_AVL2 UINT64_C(0x800)
#define PTE_NX (UINT64_C(1) << 63)
#define PTE_FRAME UINT64_C(0x000ffffffffff000)

/*
 * Rights as the kit uses them. Xen adds U (and bit 52) to what a 64-bit kernel installs, since
 * the kernel too runs in ring 3: compare PTE_W, PTE_NX, the frame or the AVL bits, not all of it.
 * To a 32-bit kernel's entries it adds nothing: without U they are the kernel's alone.
 */
#define PTE_RW (PTE_P | PTE_W | PTE_A | PTE_D)
#define PTE_RO (PTE_P | PTE_A)
#define PTE_USER_RW (PTE_RW | PTE_U)
#define PTE_USER_RO (PTE_RO | PTE_U)
#define PTE_TABLE (PTE_P | PTE_W | PTE_U | PTE_A) /* an entry for a lower table */

#define INVALID_MFN (~0UL)

/*
 * Levels of tables: four, or three for 32 bits, whose top-level table has four entries. What is
 * called l4 here is the top-level table of either.
 */
#ifdef __x86_64__
#define TOP_LEVEL 4
#define TOP_ENTRIES 512
#define L4_XEN_FIRST 256 /* L4 slots that belong to Xen: 256 to 271 */
#define L4_XEN_LAST 271
#define EMPTY_TABLES 4 /* a page of zeros can be a table of the levels 1 to this one */
#define AWAY 0x400000000000UL       /* addresses with no tables yet, in an entry of the top-level */
#define FURTHER_AWAY 0x600000000000UL /* table each */
#define BAD_ADDRESS 0x800000000000UL  /* one that nobody can use: not canonical */
#else
#define TOP_LEVEL 3
#define TOP_ENTRIES 4
#define EMPTY_TABLES 2 /* an L3 table cannot do without its entry L3_XEN */
#define AWAY 0x40000000UL
#define FURTHER_AWAY 0x80000000UL
#define BAD_ADDRESS 0xfff00000UL /* Xen's */
#define L3_XEN 3         /* the L3 slot whose L2 table has Xen's part, from L2_XEN_FIRST on: */
#define L2_XEN_FIRST 428 /* that table cannot belong to two L3 tables */
#endif

extern unsigned long *p2m;
extern const unsigned long *const m2p;

static inline pte_t make_pte(mfn_t mfn, uint64_t flags)
{
    return (pte_t)mfn << PAGE_SHIFT | flags;
}

static inline mfn_t pte_mfn(pte_t entry)
{
    return (mfn_t)((entry & PTE_FRAME) >> PAGE_SHIFT);
}

static inline uint64_t pte_flags(pte_t entry)
{
    return entry & ~PTE_FRAME;
}

/* Index of `va` in a table of `level` (1 to TOP_LEVEL). */
static inline unsigned int table_index(const volatile void *va, int level)
{
    return (unsigned long)va >> (PAGE_SHIFT + 9 * (level - 1)) & 511;
}

/* PFN of an address in the initial mapping, and back. */
pfn_t va_pfn(const volatile void *va);
void *pfn_va(pfn_t pfn);

/* --- looking --- */

/* The entry that maps `va` (the L1 entry, or that of a superpage); 0 if a level is absent. */
pte_t pte_get(const volatile void *va);

/* The entry of `va` at `level` below the top-level table `l4`; 0 if a higher level is absent. */
pte_t pte_get_at(mfn_t l4, const volatile void *va, int level);

/* Machine address of that entry (for mmu_update.ptr and share_req.ptr); 0 if there is no table. */
uint64_t pte_maddr(const volatile void *va);
uint64_t pte_maddr_at(mfn_t l4, const volatile void *va, int level);

/* The frame that `va` is mapped to; INVALID_MFN if it is not. */
mfn_t va_mfn(const volatile void *va);

/* Entry `index` of the table in frame `mfn`, which is any frame of this domain. */
pte_t table_read(mfn_t mfn, unsigned int index);

/* --- changing: 0 or a negative errno --- */

/* update_va_mapping in the current address space, with an INVLPG. */
long pte_set(const volatile void *va, pte_t entry);

/* Same frame and AVL bits, rights `flags` (PTE_RW, PTE_RO, 0 for not present, ...). */
long pte_protect(const volatile void *va, uint64_t flags);

/* One mmu_update: `maddr` is the entry's machine address, with an MMU_* command in bits 1..0. */
long pte_write(uint64_t maddr, pte_t entry);

/* The same in any address space, making the tables that are missing (from page_alloc()). */
long pte_map(const volatile void *va, pte_t entry);
long pte_map_at(mfn_t l4, const volatile void *va, pte_t entry);

/* One mmuext_op for this domain. */
long mmuext(unsigned int command, unsigned long arg1, unsigned long arg2);
long pin(mfn_t mfn, int level);
long unpin(mfn_t mfn);
void flush_tlb(void);
void flush_page(const volatile void *va);

/* --- pages --- */

/*
 * A zeroed page of the initial mapping, writable, with its own frame; bails out if there are no
 * more (Xen guarantees 512 KiB: at least 128). page_free() gives it back for the next page_alloc():
 * it must be mapped as it was.
 */
void *page_alloc(void);
void page_free(void *page);
unsigned int pages_left(void);

/* Fills a page with `ret` instructions, or with a pattern that `seed` decides; checks it. */
void page_fill_ret(void *page);
void page_fill(void *page, uint64_t seed);
bool page_check(const void *page, uint64_t seed);

/* A page as page table: maps it read-only and pins it at `level`; the reverse. */
long make_table(void *page, int level);
long unmake_table(void *page);

/*
 * Frames from and to Xen. frame_populate() asks for a new frame for `pfn` and enters it into p2m;
 * frame_release() gives a frame back that is mapped nowhere. INVALID_MFN or an errno on failure.
 */
mfn_t frame_populate(pfn_t pfn);
long frame_release(mfn_t mfn);

/* The page at `va` gives its frame back to Xen (nothing is mapped then); gets a new one, zeroed. */
long page_release(void *page);
long page_populate(void *page);

/*
 * What a kernel does at a write to a shared page: a new frame for the page at `va` (which must
 * belong to page_alloc()), the contents copied, mapped with PTE_RW.
 */
long page_unshare(void *page);

/* A page of address space with nothing in it, to map any frame at. */
void *window_alloc(void);

/* --- address spaces --- */

/* The current top-level table, and changing it (MMUEXT_NEW_BASEPTR). */
mfn_t l4_current(void);
long l4_load(mfn_t l4);

/* A new pinned top-level table with all the kernel's entries, or INVALID_MFN if Xen refuses. */
mfn_t l4_new(void);

#endif
