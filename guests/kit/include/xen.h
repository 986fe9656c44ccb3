/*
 * The structures of the Xen PV ABI for 64-bit and 32-bit guests, and by xen-numbers.h its constants.
 *
 * Source: Xen's public headers (xen.h, memory.h, sched.h, event_channel.h, callback.h, vcpu.h,
 * grant_table.h, physdev.h, version.h, arch-x86/). Names of structures and fields are Xen's.
 * Invariant: tests/guests/test_ckit.py reads both layouts out of gcc's debug information and
 * compares every structure here, field by field, with Debian's libxen-dev.
 *
 * `unsigned long` is used exactly where Xen's layout depends on the guest's width.
 */

#ifndef COWBIRD_XEN_H
#define COWBIRD_XEN_H

#include "xen-numbers.h"

#ifndef __ASSEMBLER__

#include <stdint.h>

typedef uint16_t domid_t;
typedef unsigned long xen_pfn_t;
typedef uint32_t evtchn_port_t;

/* --- what guest and hypervisor share --- */

struct start_info {
    char magic[32];
    unsigned long nr_pages;
    unsigned long shared_info; /* machine address */
    uint32_t flags;            /* SIF_* */
    xen_pfn_t store_mfn;
    uint32_t store_evtchn;
    union {
        struct {
            xen_pfn_t mfn;
            uint32_t evtchn;
        } domU;
        struct {
            uint32_t info_off;
            uint32_t info_size;
        } dom0;
    } console;
    unsigned long pt_base; /* linear address of the top-level table */
    unsigned long nr_pt_frames;
    unsigned long mfn_list;  /* linear address of the P2M list */
    unsigned long mod_start; /* linear address of the module */
    unsigned long mod_len;   /* bytes */
    int8_t cmd_line[MAX_GUEST_CMDLINE];
    unsigned long first_p2m_pfn;
    unsigned long nr_p2m_frames;
};

struct arch_vcpu_info {
    unsigned long cr2; /* address of the last #PF */
#ifdef __x86_64__
    unsigned long pad;
#else
    unsigned long pad[5];
#endif
};

struct vcpu_time_info {
    uint32_t version; /* odd while it is being changed */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* nanoseconds since boot */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad1[2];
};

struct vcpu_info {
    uint8_t evtchn_upcall_pending;
    uint8_t evtchn_upcall_mask;
    unsigned long evtchn_pending_sel;
    struct arch_vcpu_info arch;
    struct vcpu_time_info time;
};

struct arch_shared_info {
    unsigned long max_pfn;
    xen_pfn_t pfn_to_mfn_frame_list_list;
    unsigned long nmi_reason;
    unsigned long p2m_cr3;
    unsigned long p2m_vaddr;
    unsigned long p2m_generation;
#ifdef __i386__
    uint32_t wc_sec_hi;
#endif
};

struct shared_info {
    struct vcpu_info vcpu_info[XEN_LEGACY_MAX_VCPUS];
    unsigned long evtchn_pending[8 * sizeof(unsigned long)];
    unsigned long evtchn_mask[8 * sizeof(unsigned long)];
    uint32_t wc_version;
    uint32_t wc_sec;
    uint32_t wc_nsec;
#ifdef __x86_64__
    uint32_t wc_sec_hi;
#endif
    struct arch_shared_info arch;
};

/* --- traps --- */

struct trap_info {
    uint8_t vector;
    uint8_t flags; /* bits 1..0: least privileged ring that may `int`; bit 2: mask events */
    uint16_t cs;
    unsigned long address; /* 0 ends the list */
};

#ifdef __x86_64__
struct iret_context {
    uint64_t rax, r11, rcx, flags, rip, cs, rflags, rsp, ss;
};

typedef unsigned long xen_callback_t;
#else
struct xen_callback {
    unsigned long cs;
    unsigned long eip;
};

typedef struct xen_callback xen_callback_t;
#endif

struct callback_register {
    uint16_t type;  /* CALLBACKTYPE_* */
    uint16_t flags; /* CALLBACKF_* */
    xen_callback_t address;
};

struct callback_unregister {
    uint16_t type;
    uint16_t _unused;
};

/* --- memory --- */

struct mmu_update {
    uint64_t ptr; /* machine address of an entry, MMU_* in bits 1..0 */
    uint64_t val;
};

struct mmuext_op {
    unsigned int cmd; /* MMUEXT_* */
    union {
        xen_pfn_t mfn;
        unsigned long linear_addr;
    } arg1;
    union {
        unsigned int nr_ents;
        const void *vcpumask;
        xen_pfn_t src_mfn;
    } arg2;
};

struct multicall_entry {
    unsigned long op, result;
    unsigned long args[6];
};

struct xen_memory_reservation {
    xen_pfn_t *extent_start;
    unsigned long nr_extents;
    unsigned int extent_order;
    unsigned int mem_flags;
    domid_t domid;
};

struct xen_memory_exchange {
    struct xen_memory_reservation in;
    struct xen_memory_reservation out;
    unsigned long nr_exchanged;
};

struct xen_memory_domain {
    domid_t domid;
};

struct xen_machphys_mfn_list {
    unsigned int max_extents;
    xen_pfn_t *extent_start;
    unsigned int nr_extents;
};

struct xen_machphys_mapping {
    unsigned long v_start, v_end, max_mfn;
};

struct xen_add_to_physmap {
    domid_t domid;
    uint16_t size;
    unsigned int space; /* XENMAPSPACE_* */
    unsigned long idx;
    xen_pfn_t gpfn;
};

struct xen_remove_from_physmap {
    domid_t domid;
    xen_pfn_t gpfn;
};

struct xen_memory_map {
    unsigned int nr_entries;
    void *buffer;
};

/* --- scheduling --- */

struct sched_shutdown {
    unsigned int reason; /* SHUTDOWN_* */
};

struct sched_poll {
    evtchn_port_t *ports;
    unsigned int nr_ports;
    uint64_t timeout; /* nanoseconds since boot; 0: none */
};

struct sched_remote_shutdown {
    domid_t domain_id;
    unsigned int reason;
};

struct sched_watchdog {
    uint32_t id;
    uint32_t timeout;
};

struct vcpu_runstate_info {
    int state; /* RUNSTATE_* */
    uint64_t state_entry_time;
    uint64_t time[4];
};

struct vcpu_register_runstate_memory_area {
    union {
        struct vcpu_runstate_info *h;
        struct vcpu_runstate_info *v;
        uint64_t p;
    } addr;
};

struct vcpu_register_time_memory_area {
    union {
        struct vcpu_time_info *h;
        struct vcpu_time_info *v;
        uint64_t p;
    } addr;
};

struct vcpu_set_periodic_timer {
    uint64_t period_ns;
};

struct vcpu_set_singleshot_timer {
    uint64_t timeout_abs_ns;
    uint32_t flags;
};

struct vcpu_register_vcpu_info {
    uint64_t mfn;
    uint32_t offset;
    uint32_t rsvd;
};

/* --- event channels --- */

struct evtchn_alloc_unbound {
    domid_t dom, remote_dom;
    evtchn_port_t port;
};

struct evtchn_bind_interdomain {
    domid_t remote_dom;
    evtchn_port_t remote_port;
    evtchn_port_t local_port;
};

struct evtchn_bind_virq {
    uint32_t virq;
    uint32_t vcpu;
    evtchn_port_t port;
};

struct evtchn_bind_ipi {
    uint32_t vcpu;
    evtchn_port_t port;
};

struct evtchn_bind_vcpu {
    evtchn_port_t port;
    uint32_t vcpu;
};

struct evtchn_close {
    evtchn_port_t port;
};

struct evtchn_send {
    evtchn_port_t port;
};

struct evtchn_unmask {
    evtchn_port_t port;
};

struct evtchn_reset {
    domid_t dom;
};

struct evtchn_status {
    domid_t dom;
    evtchn_port_t port;
    uint32_t status; /* EVTCHNSTAT_* */
    uint32_t vcpu;
    union {
        struct {
            domid_t dom;
        } unbound;
        struct {
            domid_t dom;
            evtchn_port_t port;
        } interdomain;
        uint32_t pirq;
        uint32_t virq;
    } u;
};

/* --- grants --- */

struct grant_entry_v1 {
    uint16_t flags; /* GTF_* */
    domid_t domid;
    uint32_t frame;
};

struct gnttab_map_grant_ref {
    uint64_t host_addr;
    uint32_t flags; /* GNTMAP_* */
    uint32_t ref;
    domid_t dom;
    int16_t status;
    uint32_t handle;
    uint64_t dev_bus_addr;
};

struct gnttab_unmap_grant_ref {
    uint64_t host_addr;
    uint64_t dev_bus_addr;
    uint32_t handle;
    int16_t status;
};

struct gnttab_setup_table {
    domid_t dom;
    uint32_t nr_frames;
    int16_t status;
    xen_pfn_t *frame_list;
};

struct gnttab_query_size {
    domid_t dom;
    uint32_t nr_frames;
    uint32_t max_nr_frames;
    int16_t status;
};

struct gnttab_set_version {
    uint32_t version;
};

struct gnttab_get_version {
    domid_t dom;
    uint16_t pad;
    uint32_t version;
};

/* --- the rest --- */

struct physdev_set_iopl {
    uint32_t iopl;
};

struct xen_platform_parameters {
    unsigned long virt_start;
};

struct xen_feature_info {
    unsigned int submap_idx; /* in */
    uint32_t submap;         /* out */
};

#endif /* !__ASSEMBLER__ */
#endif
