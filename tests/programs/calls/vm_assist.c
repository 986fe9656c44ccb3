// cowbird: description = vm_assist: which assists there are; what is switched
// cowbird: environments = pv64, pv32, xen
/* Source: xen.h (VMASST_*); xen/common/kernel.c (vm_assist), VM_ASSIST_VALID of x86. */
#include "cowbird.h"

#define ENABLE(type) HYPERVISOR_vm_assist(VMASST_CMD_enable, type)
#define DISABLE(type) HYPERVISOR_vm_assist(VMASST_CMD_disable, type)

int main(void)
{
    ktap_plan(18);
    ok_result(ENABLE(VMASST_TYPE_4gb_segments), 0, "4gb_segments");
    ok_result(DISABLE(VMASST_TYPE_4gb_segments), 0, "off");
    ok_result(ENABLE(VMASST_TYPE_4gb_segments_notify), 0, "4gb_segments_notify");
    ok_result(DISABLE(VMASST_TYPE_4gb_segments_notify), 0, "off");
    ok_result(ENABLE(VMASST_TYPE_writable_pagetables), 0, "writable_pagetables");
    ok_result(DISABLE(VMASST_TYPE_writable_pagetables), 0, "off");
    ok_result(ENABLE(VMASST_TYPE_pae_extended_cr3), 0, "pae_extended_cr3");
    ok_result(DISABLE(VMASST_TYPE_pae_extended_cr3), 0, "off");
    ok_result(ENABLE(VMASST_TYPE_architectural_iopl), 0, "architectural_iopl");
    ok_result(DISABLE(VMASST_TYPE_architectural_iopl), 0, "off");
    ok_result(ENABLE(VMASST_TYPE_runstate_update_flag), 0, "runstate_update_flag");
    ok_result(DISABLE(VMASST_TYPE_runstate_update_flag), 0, "off");
    ok_result(DISABLE(VMASST_TYPE_runstate_update_flag), 0, "off again");
    ok_result(ENABLE(6), -EINVAL, "no such assist");
    ok_result(ENABLE(31), -EINVAL, "nor such");
    ok_result(ENABLE(64), -EINVAL, "nor beyond a word");
    ok_result(ENABLE(0x80000000), -EINVAL, "nor far beyond");
    ok_result(HYPERVISOR_vm_assist(2, VMASST_TYPE_4gb_segments), -ENOSYS, "no such command");
    return 0;
}
