/*
 * Grants to oneself: one domain gives and takes, so that a program runs as first domain of the real
 * Xen too. Entry numbers from 8 on are free; 0-7 are the toolstack's.
 */
#ifndef GRANTS_H
#define GRANTS_H

#include "cowbird.h"

#define FIRST 8u

static struct grant_entry_v1 *grants;
static domid_t self;

struct gnttab_unmap_and_replace {
    uint64_t host_addr;
    uint64_t new_addr;
    uint32_t handle;
    int16_t status;
};

struct gnttab_swap_grant_ref {
    uint32_t ref_a;
    uint32_t ref_b;
    int16_t status;
};

struct gnttab_copy_end {
    union {
        uint32_t ref;
        xen_pfn_t gmfn;
    } u;
    domid_t domid;
    uint16_t offset;
};

struct gnttab_copy_op {
    struct gnttab_copy_end source, dest;
    uint16_t len;
    uint16_t flags;
    int16_t status;
};

/* Which number this domain has: the only one whose version it may ask for by number. */
static domid_t find_self(void)
{
    for (domid_t id = 0; id < 1000; id++) {
        struct gnttab_get_version op = {.dom = id};

        if (HYPERVISOR_grant_table_op(GNTTABOP_get_version, &op, 1) == 0)
            return id;
    }
    bail("this domain has no number");
}

/* Maps the grant table. */
static void grants_init(void)
{
    static xen_pfn_t frame;
    struct gnttab_setup_table op = {DOMID_SELF, 1, 1, &frame};

    if (HYPERVISOR_grant_table_op(GNTTABOP_setup_table, &op, 1) || op.status)
        bail("no grant table: status %d", op.status);
    grants = window_alloc();
    if (pte_map(grants, make_pte(frame, PTE_RW)))
        bail("the grant table cannot be mapped");
    self = find_self();
}

static inline void grant(unsigned int ref, const void *page, uint16_t flags)
{
    grants[ref].domid = self;
    grants[ref].frame = (uint32_t)va_mfn(page);
    __atomic_store_n(&grants[ref].flags, flags, __ATOMIC_SEQ_CST);
}

static struct gnttab_map_grant_ref last;

static inline int grant_map(unsigned int ref, uint64_t where, unsigned int flags)
{
    last = (struct gnttab_map_grant_ref){where, flags, ref, self, 77, 0, 0};
    if (HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, &last, 1))
        return 99;
    return last.status;
}

static inline int grant_unmap(uint32_t handle, uint64_t where, uint64_t bus)
{
    struct gnttab_unmap_grant_ref op = {where, bus, handle, 77};

    if (HYPERVISOR_grant_table_op(GNTTABOP_unmap_grant_ref, &op, 1))
        return 99;
    return op.status;
}

static inline int swap(unsigned int a, unsigned int b)
{
    struct gnttab_swap_grant_ref op = {a, b, 77};

    if (HYPERVISOR_grant_table_op(GNTTABOP_swap_grant_ref, &op, 1))
        return 99;
    return op.status;
}

/* What flags say which of `from` and `to` is a reference: 1 the source, 2 the destination. */
static inline int copy(uint64_t from, domid_t whose, unsigned int at, uint64_t to,
                       domid_t owner, unsigned int into, unsigned int length, unsigned int flags)
{
    static struct gnttab_copy_op op;

    memset(&op, 0, sizeof(op));
    op.source.u.gmfn = from;
    op.source.domid = whose;
    op.source.offset = (uint16_t)at;
    op.dest.u.gmfn = to;
    op.dest.domid = owner;
    op.dest.offset = (uint16_t)into;
    op.len = (uint16_t)length;
    op.flags = (uint16_t)flags;
    op.status = 77;
    if (HYPERVISOR_grant_table_op(GNTTABOP_copy, &op, 1))
        return 99;
    return op.status;
}

#define VA(page) ((unsigned long)(page))
#define BITS (GTF_reading | GTF_writing)

#endif
