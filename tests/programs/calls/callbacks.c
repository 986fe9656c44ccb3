// cowbird: description = callback_op, set_callbacks, nmi_op: what can be registered and what not
/* Source: callback.h, nmi.h; xen/arch/x86/pv/callback.c. */
#include "cowbird.h"

static long put(unsigned int type, unsigned int flags, unsigned long address)
{
    struct callback_register call = {
        .type = (uint16_t)type, .flags = (uint16_t)flags, .address = address};

    return HYPERVISOR_callback_op(CALLBACKOP_register, &call);
}

static long take(unsigned int type)
{
    struct callback_unregister call = {.type = (uint16_t)type};

    return HYPERVISOR_callback_op(CALLBACKOP_unregister, &call);
}

int main(void)
{
    static const unsigned int types[] = {
        CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall, CALLBACKTYPE_sysenter, CALLBACKTYPE_syscall32, CALLBACKTYPE_event,
    };
    unsigned long here = (unsigned long)main;
    struct xennmi_callback {
        unsigned long handler_address;
        unsigned long pad;
    } nmi = {here, 0};

    ktap_plan(31);
    for (unsigned int i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        unsigned int type = types[i];
        unsigned long entry = type == CALLBACKTYPE_event ? (unsigned long)trap_entry(TRAP_EVENT)
                                                         : here;

        ok_result(put(type, CALLBACKF_mask_events, entry), 0, "type %u", type);
        ok_result(put(type, 0xfffe, entry), 0, "type %u with any flags", type);
        ok_result(put(type, 0, 0x800000000000), -EINVAL, "type %u nowhere", type);
    }
    ok_result(put(CALLBACKTYPE_nmi, 0, here), 0, "the NMI's");
    ok_result(take(CALLBACKTYPE_nmi), 0, "which can be taken away");
    ok_result(take(CALLBACKTYPE_event), -EINVAL, "others cannot");
    ok_result(take(CALLBACKTYPE_syscall), -EINVAL, "syscall's neither");
    ok_result(put(CALLBACKTYPE_sysenter_deprecated, 0, here), -ENOSYS, "sysenter's old one");
    ok_result(put(6, 0, here), -ENOSYS, "no such type");
    ok_result(put(8, 0, here), -ENOSYS, "nor such");
    ok_result(take(6), -ENOSYS, "to take");
    ok_result(HYPERVISOR_callback_op(2, &nmi), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_callback_op(CALLBACKOP_register, (void *)0x5000), -EFAULT, "nothing there");
    ok_result(HYPERVISOR_callback_op(CALLBACKOP_unregister, (void *)0x5000), -EFAULT, "nor there");
    ok_result(HYPERVISOR_nmi_op(XENNMI_register_callback, &nmi), 0, "nmi_op registers");
    ok_result(HYPERVISOR_nmi_op(XENNMI_unregister_callback, NULL), 0, "and takes away");
    ok_result(HYPERVISOR_nmi_op(9, NULL), -ENOSYS, "no such nmi_op");
    ok_result(HYPERVISOR_nmi_op(XENNMI_register_callback, (void *)0x5000), -EFAULT, "nothing there");
    nmi.handler_address = 0x800000000000;
    ok_result(HYPERVISOR_nmi_op(XENNMI_register_callback, &nmi), -EINVAL, "nowhere");
    return 0;
}
