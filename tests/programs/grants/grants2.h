/*
 * Version 2 of the grant table: its entries and its status words. Entries from 8 on are free.
 */
#ifndef GRANTS2_H
#define GRANTS2_H

#include "grants.h"

struct grant_entry_header {
    uint16_t flags;
    domid_t domid;
};

union grant_entry_v2 {
    struct grant_entry_header hdr;
    struct {
        struct grant_entry_header hdr;
        uint32_t pad0;
        uint64_t frame;
    } full_page;
    struct {
        struct grant_entry_header hdr;
        uint16_t page_off;
        uint16_t length;
        uint64_t frame;
    } sub_page;
    struct {
        struct grant_entry_header hdr;
        domid_t trans_domid;
        uint16_t pad0;
        uint32_t gref;
    } transitive;
};

struct gnttab_get_status_frames {
    uint32_t nr_frames;
    domid_t dom;
    int16_t status;
    unsigned long frame_list;
};

#define entries2 ((union grant_entry_v2 *)grants)

static volatile uint16_t *statuses;

static long set_version(uint32_t version)
{
    static struct gnttab_set_version op;
    long answer;

    op.version = version;
    answer = HYPERVISOR_grant_table_op(GNTTABOP_set_version, &op, 1);
    return answer ? answer : (long)op.version;
}

static uint64_t status_frame(void)
{
    static uint64_t frame;
    struct gnttab_get_status_frames op = {1, DOMID_SELF, 77, (unsigned long)&frame};

    if (HYPERVISOR_grant_table_op(GNTTABOP_get_status_frames, &op, 1) || op.status)
        bail("no status frame: %d", op.status);
    return frame;
}

/* Switches to version 2 and maps its status words. */
static inline void grants2_init(void)
{
    grants_init();
    if (set_version(2) != 2)
        bail("version 2 is refused");
    statuses = window_alloc();
    if (pte_map((void *)statuses, make_pte(status_frame(), PTE_RW)))
        bail("the status words cannot be mapped");
}

static inline void entry2(unsigned int ref, uint16_t flags, domid_t domid, uint32_t middle,
                          uint64_t frame)
{
    entries2[ref].hdr.flags = 0;
    entries2[ref].full_page.pad0 = middle;
    entries2[ref].full_page.frame = frame;
    entries2[ref].hdr.domid = domid;
    __atomic_store_n(&entries2[ref].hdr.flags, flags, __ATOMIC_SEQ_CST);
}

static inline void grant2(unsigned int ref, const void *page, uint16_t flags)
{
    entry2(ref, flags, self, 0, va_mfn(page));
}

static inline void grant_part(unsigned int ref, const void *page, uint16_t flags, unsigned int from,
                              unsigned int length)
{
    entry2(ref, flags | GTF_sub_page, self, from | length << 16, va_mfn(page));
}

static inline void pass_on(unsigned int ref, domid_t user, domid_t whose, uint32_t gref)
{
    entry2(ref, GTF_transitive, user, whose, gref);
}

#endif
