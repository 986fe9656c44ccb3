// cowbird: description = pvclock: its rate is the TSC's, across sleep, updates and a second copy
// cowbird: environments = pv64, pv32, xen
/*
 * Time is system_time + (TSC - tsc_timestamp) at the rate of the multiplier, whichever record is
 * used: two records and one TSC value must give the same time, to a microsecond.
 *
 * Source: xen.h (vcpu_time_info).
 */
#include "cowbird.h"

static struct vcpu_time_info copy;

static uint64_t tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* The time at `ticks` by a record, forwards or backwards from it. */
static uint64_t time_at(const struct vcpu_time_info *record, uint64_t ticks)
{
    bool before = ticks < record->tsc_timestamp;
    uint64_t delta = before ? record->tsc_timestamp - ticks : ticks - record->tsc_timestamp;

    if (record->tsc_shift < 0)
        delta >>= -record->tsc_shift;
    else
        delta <<= record->tsc_shift;
    delta = (delta >> 32) * record->tsc_to_system_mul +
            ((delta & 0xffffffff) * record->tsc_to_system_mul >> 32);
    return before ? record->system_time - delta : record->system_time + delta;
}

static struct vcpu_time_info snapshot(void)
{
    const volatile struct vcpu_time_info *time = &shared_info->vcpu_info[0].time;
    struct vcpu_time_info taken;

    do
        taken = *(const struct vcpu_time_info *)time;
    while ((taken.version & 1) || taken.version != time->version);
    return taken;
}

static bool near(uint64_t a, uint64_t b)
{
    return (a > b ? a - b : b - a) < 1000;
}

int main(void)
{
    struct vcpu_register_time_memory_area where = {.addr.v = &copy};
    struct vcpu_time_info first = snapshot(), later;
    uint64_t now, then;
    bool same = true, forward = true;

    ktap_plan(9);
    HYPERVISOR_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    ok_result(HYPERVISOR_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &where), 0, "a copy");
    now = tsc();
    ok(near(time_at(&first, now), time_at(&copy, now)), "it says the same");
    bind_virq(VIRQ_TIMER);
    then = time_ns();
    HYPERVISOR_set_timer_op(then + 5000000);
    block();
    events_off();
    now = tsc();
    later = snapshot();
    ok(time_at(&later, now) >= then + 5000000, "after sleeping 5 ms it is later");
    ok(near(time_at(&first, now), time_at(&later, now)), "by the record from before too");
    ok(near(time_at(&copy, now), time_at(&later, now)), "and by the copy");
    ok_value(later.tsc_to_system_mul, first.tsc_to_system_mul, "the rate does not change");
    ok_value((uint8_t)later.tsc_shift, (uint8_t)first.tsc_shift, "nor the shift");
    for (unsigned int i = 0; i < 200; i++) {
        struct vcpu_time_info record;

        HYPERVISOR_sched_op(SCHEDOP_yield, NULL);
        record = snapshot();
        now = tsc();
        same &= near(time_at(&record, now), time_at(&first, now));
        forward &= time_at(&record, now) >= then;
        then = time_at(&record, now);
    }
    ok(same, "200 turns later they all agree");
    ok(forward, "and never go back");
    return 0;
}
