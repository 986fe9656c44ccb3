/* Event channels: the two-level scan of the pending bits, and the calls around it. */

#include "internal.h"

#define BITS (8 * (unsigned int)sizeof(unsigned long))
#define PORTS 64 /* ports whose handlers are kept; the kit binds few */

static event_handler_t event_handlers[PORTS];

void set_event_handler(evtchn_port_t port, event_handler_t handler)
{
    if (port >= PORTS)
        panic("port %u has no room for a handler", port);
    event_handlers[port] = handler;
}

void events_upcall(void)
{
    struct vcpu_info *vcpu = &shared_info->vcpu_info[0];
    unsigned long groups;

    while (__atomic_exchange_n(&vcpu->evtchn_upcall_pending, 0, __ATOMIC_SEQ_CST)) {
        groups = __atomic_exchange_n(&vcpu->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
        while (groups) {
            unsigned int group = (unsigned int)__builtin_ctzl(groups);
            unsigned long ports;

            groups &= groups - 1;
            ports = shared_info->evtchn_pending[group] & ~shared_info->evtchn_mask[group];
            __atomic_and_fetch(&shared_info->evtchn_pending[group], ~ports, __ATOMIC_SEQ_CST);
            for (; ports; ports &= ports - 1) {
                evtchn_port_t port = group * BITS + (unsigned int)__builtin_ctzl(ports);

                if (port < PORTS && event_handlers[port])
                    event_handlers[port](port);
            }
        }
    }
}

static long bound(long result, evtchn_port_t port)
{
    struct evtchn_unmask unmask = {.port = port};

    if (result)
        return result;
    result = HYPERVISOR_event_channel_op(EVTCHNOP_unmask, &unmask);
    return result ? result : (long)port;
}

long bind_virq(unsigned int virq)
{
    struct evtchn_bind_virq bind = {.virq = virq};
    long result = HYPERVISOR_event_channel_op(EVTCHNOP_bind_virq, &bind);

    return bound(result, bind.port);
}

long bind_ipi(void)
{
    struct evtchn_bind_ipi bind = {0};
    long result = HYPERVISOR_event_channel_op(EVTCHNOP_bind_ipi, &bind);

    return bound(result, bind.port);
}

long event_send(evtchn_port_t port)
{
    struct evtchn_send send = {.port = port};

    return HYPERVISOR_event_channel_op(EVTCHNOP_send, &send);
}

long event_close(evtchn_port_t port)
{
    struct evtchn_close close = {.port = port};

    return HYPERVISOR_event_channel_op(EVTCHNOP_close, &close);
}

void events_on(void)
{
    volatile struct vcpu_info *vcpu = &shared_info->vcpu_info[0];

    vcpu->evtchn_upcall_mask = 0;
    __asm__ volatile("" : : : "memory");
    /* What came while events were masked is delivered on the way out of any hypercall. */
    if (vcpu->evtchn_upcall_pending)
        HYPERVISOR_xen_version(XENVER_version, NULL);
}

void events_off(void)
{
    *(volatile uint8_t *)&shared_info->vcpu_info[0].evtchn_upcall_mask = 1;
}

void block(void)
{
    HYPERVISOR_sched_op(SCHEDOP_block, NULL);
}

/* ticks * factor / 2**32, of a product with up to 96 bits. */
static uint64_t scale(uint64_t ticks, uint32_t factor)
{
    return (ticks >> 32) * factor + ((ticks & 0xffffffff) * factor >> 32);
}

uint64_t time_ns(void)
{
    const volatile struct vcpu_time_info *time = &shared_info->vcpu_info[0].time;
    uint64_t result;
    uint32_t version;

    do {
        uint32_t low, high;
        uint64_t ticks;

        while ((version = time->version) & 1)
            ;
        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
        ticks = ((uint64_t)high << 32 | low) - time->tsc_timestamp;
        if (time->tsc_shift < 0)
            ticks >>= -time->tsc_shift;
        else
            ticks <<= time->tsc_shift;
        result = time->system_time + scale(ticks, time->tsc_to_system_mul);
    } while (version != time->version);
    return result;
}
