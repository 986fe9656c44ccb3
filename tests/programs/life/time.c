// cowbird: description = time: monotonic, with the TSC between, the wall clock, a second copy
// cowbird: environments = pv64, pv32, xen
/*
 * xen.h, vcpu_time_info: system_time at tsc_timestamp; between, the TSC counts. Versions are even
 * outside of an update.
 */

#include "cowbird.h"

static struct vcpu_time_info copy;

int main(void)
{
    const volatile struct vcpu_time_info *time = &shared_info->vcpu_info[0].time;
    struct vcpu_register_time_memory_area where = {.addr.v = &copy};
    uint64_t before = time_ns(), last = before;
    bool monotonic = true;

    ktap_plan(9);
    for (unsigned int i = 0; i < 1000; i++) {
        uint64_t now = time_ns();

        monotonic &= now >= last;
        last = now;
    }
    ok(monotonic, "a thousand readings never go back");
    ok(last > before, "and go on");
    ok_value(time->version & 1, 0, "the version is even");
    ok(time->tsc_to_system_mul, "the TSC has a rate");
    ok_value(shared_info->wc_version & 1, 0, "the wall clock's version is even");
    ok(shared_info->wc_sec > 1000000000, "and it is after 2001");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &where), 0, "a second copy");
    ok(copy.system_time && copy.tsc_to_system_mul == time->tsc_to_system_mul, "is written at once");
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, (void *)0x5000), -EFAULT,
              "an argument that is not there");
    return 0;
}
