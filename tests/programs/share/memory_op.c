// cowbird: description = a shared frame is nobody's to give back, exchange, rename, clear, copy or pin
// cowbird: environments = pv64, pv32
// cowbird: oracle = no: needs make_ro_and_share
/* It belongs to the machine (DOMID_COW): whatever needs an owned frame is refused. */

#include "share_test.h"

int main(void)
{
    char *page = filled_page(1), *spare = page_alloc();
    mfn_t frame = va_mfn(page);
    xen_pfn_t in = frame, out = va_pfn(page);
    unsigned long gdt = frame;
    struct xen_memory_exchange exchange = {
        .in = {.extent_start = &in, .nr_extents = 1, .domid = DOMID_SELF},
        .out = {.extent_start = &out, .nr_extents = 1, .domid = DOMID_SELF},
    };

    ktap_plan(14);
    share(page);
    ok_result(frame_release(frame), -EBUSY, "decrease_reservation gives none back");
    ok_result(HYPERVISOR_memory_op(XENMEM_exchange, &exchange), -EINVAL, "exchange");
    ok_value(exchange.nr_exchanged, 0, "exchanges none");
    ok_result(pte_write(frame << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 5), -EINVAL, "MACHPHYS_UPDATE");
    ok_value(m2p[frame], ~0UL, "the M2P entry stays absent");
    ok_result(pte_write(frame << PAGE_SHIFT, 5), -EINVAL, "an mmu_update into it");
    ok_result(mmuext(MMUEXT_CLEAR_PAGE, frame, 0), -EINVAL, "CLEAR_PAGE");
    ok_result(mmuext(MMUEXT_COPY_PAGE, frame, va_mfn(spare)), -EINVAL, "COPY_PAGE to it");
    ok_result(pin(frame, 1), -EINVAL, "a pin");
    ok_result(l4_load(frame), -EINVAL, "a base pointer");
    ok_result(HYPERVISOR_set_gdt(&gdt, 512), -EINVAL, "a GDT");
    ok_result(HYPERVISOR_update_descriptor(frame << PAGE_SHIFT, 0), -EINVAL, "a descriptor in it");
    ok(page_check(page, 1), "the contents are what they were");
    ok_value(va_mfn(page), frame, "and the frame is still mapped");
    return 0;
}
