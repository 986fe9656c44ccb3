// cowbird: description = update_va_mapping_otherdomain: who may be named, and what is then mapped
// cowbird: environments = pv64, pv32, xen
/*
 * The last argument says whose frames the entry may name. Oneself is DOMID_SELF; by number it is
 * refused like a domain that does not exist.
 *
 * Source: xen/arch/x86/mm.c (get_pg_owner).
 */
#include "cowbird.h"

static char *page;

static long set(pte_t entry, domid_t domain)
{
    return HYPERVISOR_update_va_mapping_otherdomain((unsigned long)page, entry, UVMF_INVLPG, domain);
}

/* The number of this domain: that of the other end of an event channel to oneself. */
static domid_t own_number(void)
{
    struct evtchn_alloc_unbound ours = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_status status = {.dom = DOMID_SELF};

    HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &ours);
    status.port = ours.port;
    HYPERVISOR_event_channel_op(EVTCHNOP_status, &status);
    return status.u.unbound.dom;
}

int main(void)
{
    mfn_t mfn;

    page = page_alloc();
    mfn = va_mfn(page);
    ktap_plan(10);
    ok_result(set(make_pte(mfn, PTE_RO), DOMID_SELF), 0, "DOMID_SELF: as update_va_mapping");
    ok_fault(probe_write(page), PF(PF_P | PF_W), "the entry is in force");
    ok_result(set(make_pte(mfn, PTE_RW), own_number()), -ESRCH, "oneself by number");
    ok_result(set(make_pte(mfn, PTE_RW), 1234), -ESRCH, "a domain that does not exist");
    ok_result(set(0, 1234), -ESRCH, "nothing from there");
    ok_result(set(make_pte(mfn, PTE_RW), DOMID_INVALID), -ESRCH, "DOMID_INVALID");
    ok_result(set(make_pte(mfn, PTE_RW), DOMID_COW), -ESRCH, "DOMID_COW");
    ok_result(set(make_pte(mfn, PTE_RW), DOMID_IDLE), -ESRCH, "DOMID_IDLE");
    ok_result(set(make_pte(l4_current(), PTE_RO), DOMID_IO), -EBUSY, "DOMID_IO: devices only");
    ok_value(pte_get(page) & (PTE_FRAME | PTE_W), make_pte(mfn, 0), "nothing was changed");
    return 0;
}
