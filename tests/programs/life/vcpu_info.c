// cowbird: description = register_vcpu_info: the vCPU's part of shared_info moves into the guest's memory
// cowbird: environments = pv64, xen
/*
 * Once it has moved, Xen reads and writes nothing of shared_info.vcpu_info[0] any more: events, their
 * mask, CR2 and the time are in the guest's page.
 *
 * Source: vcpu.h (vcpu_register_vcpu_info); xen/common/domain.c (map_vcpu_info).
 */
#include "cowbird.h"

#define info ((volatile struct vcpu_info *)(page + 128))

static char *page;
volatile struct vcpu_info *upcall_info;
volatile unsigned int upcalls;

/* The event callback: takes the event and returns. */
__asm__(".globl on_event\n"
        "on_event:\n"
        "    movq 0(%rsp), %rcx\n"
        "    movq upcall_info(%rip), %rcx\n"
        "    movb $0, (%rcx)\n"
        "    movq $0, 8(%rcx)\n"
        "    incl upcalls(%rip)\n"
        "    popq %rcx\n"
        "    popq %r11\n"
        "    pushq $0\n"
        "    pushq %rcx\n"
        "    pushq %r11\n"
        "    pushq %rax\n"
        "    movl $23, %eax\n" /* __HYPERVISOR_iret */
        "    syscall\n");
extern char on_event[];

static long move(uint64_t mfn, uint32_t offset)
{
    struct vcpu_register_vcpu_info order = {mfn, offset, 0};

    return HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_info, 0, &order);
}

int main(void)
{
    struct callback_register handler = {.type = CALLBACKTYPE_event,
                                        .address = (xen_callback_t)on_event};
    volatile struct vcpu_info *old = &shared_info->vcpu_info[0];
    char *table = page_alloc();
    uint32_t version;
    long port;

    page = page_alloc();
    upcall_info = info;
    make_table(table, 1);
    port = bind_ipi();
    ktap_plan(37);
    ok(port > 0, "a port");
    ok_result(move(va_mfn(page), PAGE_SIZE - 63), -ENXIO, "beyond the page");
    ok_result(move(va_mfn(page), 132), -ENXIO, "not aligned");
    ok_result(move(INVALID_MFN, 0), -EINVAL, "no such frame");
    ok_result(move(va_mfn(table), 0), -EINVAL, "a page table");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_info, 0, (void *)0x5000), -EFAULT, "nothing");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_info, 1, (void *)0x5000), -ENOENT, "vCPU 1");
    ok_value(old->evtchn_upcall_mask, 1, "events are masked");
    ok_result(move(va_mfn(page), 128), 0, "moved");
    ok_value(info->evtchn_upcall_mask, 1, "they are still masked");
    ok_value(info->evtchn_upcall_pending, 1, "something may have come");
    ok_value(info->evtchn_pending_sel, ~0UL, "anywhere");
    ok_value(old->evtchn_upcall_pending, 0, "not in the old place");
    ok_value(info->time.version & 1, 0, "there is a time");
    ok(info->time.tsc_to_system_mul != 0, "with its rate");
    ok_result(move(va_mfn(page), 0), -EINVAL, "not twice");

    /* Events. */
    info->evtchn_upcall_pending = 0;
    info->evtchn_pending_sel = 0;
    old->evtchn_pending_sel = 0;
    ok_result(event_send((evtchn_port_t)port), 0, "an event");
    ok_value(info->evtchn_upcall_pending, 1, "is pending here");
    ok_value(info->evtchn_pending_sel, 1UL << (port >> 6), "with its selector");
    ok_value(old->evtchn_upcall_pending, 0, "and not there");
    ok_value(old->evtchn_pending_sel, 0, "nor its selector");
    old->evtchn_upcall_mask = 0;
    HYPERVISOR_sched_op(SCHEDOP_yield, NULL);
    ok_value(upcalls, 0, "the old mask is nobody's");
    old->evtchn_upcall_mask = 1;
    ok_result(HYPERVISOR_callback_op(CALLBACKOP_register, &handler), 0, "a callback");
    info->evtchn_upcall_mask = 0;
    HYPERVISOR_sched_op(SCHEDOP_yield, NULL);
    ok_value(upcalls, 1, "the new one is");
    ok_value(info->evtchn_upcall_pending, 0, "the callback took it");
    ok_value(info->evtchn_upcall_mask, 0, "and the mask was restored");
    __atomic_and_fetch(&shared_info->evtchn_pending[port >> 6], ~(1UL << (port & 63)),
                       __ATOMIC_SEQ_CST);
    ok_result(event_send((evtchn_port_t)port), 0, "another event");
    ok_value(upcalls, 2, "comes at once");
    info->evtchn_upcall_mask = 1;

    /* CR2. */
    old->arch.cr2 = 1;
    ok_fault(probe_read((void *)0x123450), PF(0), "a fault");
    ok_value(info->arch.cr2, 0x123450, "its address is here");
    ok_value(old->arch.cr2, 1, "and not there");
    ok_value(info->evtchn_upcall_mask, 1, "the mask is kept");

    /* The page belongs to it now. */
    ok_result(pte_protect(page, PTE_RO), 0, "mapped read-only");
    ok_result(pin(va_mfn(page), 1), -EINVAL, "it is no page table");
    ok_result(pte_protect(page, PTE_RW), 0, "mapped writable");
    version = info->time.version;
    ok(version >= info->time.version, "its time goes on");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_is_up, 0, NULL), 1, "and the vCPU");
    return 0;
}
