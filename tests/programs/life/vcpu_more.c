// cowbird: description = vcpu_op: timers and areas with bad arguments, stopping what does not run
/* Source: vcpu.h; xen/common/domain.c (do_vcpu_op), xen/arch/x86/domain.c. */
#include "cowbird.h"

static struct vcpu_runstate_info area;

static long period(uint64_t ns)
{
    struct vcpu_set_periodic_timer order = {ns};

    return HYPERVISOR_vcpu_op(VCPUOP_set_periodic_timer, 0, &order);
}

int main(void)
{
    struct vcpu_register_runstate_memory_area where = {.addr.v = (void *)0x5000};
    struct vcpu_register_time_memory_area time = {.addr.v = (void *)0x5000};

    ktap_plan(21);
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "no periodic timer");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "twice");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0, "nor a one-shot");
    ok_result(period(999999), -EINVAL, "less than a millisecond");
    ok_result(period(0), -EINVAL, "no period");
    ok_result(period(1000000), 0, "a millisecond");
    ok_result(period(1UL << 62), -EINVAL, "beyond what there is");
    ok_result(period((1UL << 62) - 1), 0, "just below");
    ok_result(period((uint64_t)-1), -EINVAL, "negative");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "stopped");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_singleshot_timer, 0, (void *)0x5000), -EFAULT,
              "a one-shot timer that is not there");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_runstate_memory_area, 0, &where), 0,
              "an area that is not there is taken: it may be later");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &time), 0,
              "so is one for the time");
    time.addr.v = (void *)0xffff800000000000;
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &time), -EFAULT,
              "but none of Xen's");
    where.addr.v = &area;
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_runstate_memory_area, 0, &where), 0, "one that is");
    ok_value(area.state, RUNSTATE_running, "is written");
    where.addr.v = (void *)0xffff800000000000;
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_runstate_memory_area, 0, &where), -EFAULT,
              "one of Xen's");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 1, NULL), -ENOENT, "another vCPU");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_set_periodic_timer, 1, NULL), -ENOENT, "nor its timer");
    ok_result(HYPERVISOR_vcpu_op(8000, 0, NULL), -ENOSYS, "no such command");
    ok_result(HYPERVISOR_vcpu_op(14, 0, NULL), -ENOSYS, "nor the next one");
    return 0;
}
