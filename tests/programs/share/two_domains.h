/*
 * Two domains that take turns. "first" and "second" on the command lines tell them apart; their
 * ids are 1 and 2, and an event channel between them says whose turn it is.
 */

#ifndef TWO_DOMAINS_H
#define TWO_DOMAINS_H

#include "share_test.h"

static evtchn_port_t channel;

static bool is_first(void)
{
    return param_flag("first");
}

static void yield(void)
{
    HYPERVISOR_sched_op(SCHEDOP_yield, NULL);
}

static void seen(void)
{
    __atomic_and_fetch(shared_info->evtchn_pending, ~(1UL << channel), __ATOMIC_SEQ_CST);
}

/* The other one goes on; this one waits until its turn comes again. */
static void tell(void)
{
    event_send(channel);
}

static void wait(void)
{
    struct sched_poll poll = {.ports = &channel, .nr_ports = 1};

    while (!(*(volatile unsigned long *)shared_info->evtchn_pending >> channel & 1))
        HYPERVISOR_sched_op(SCHEDOP_poll, &poll);
    seen();
}

/* Connects the two. The first port that a domain opens is behind those of its store and console. */
static void meet(void)
{
    if (is_first()) {
        struct evtchn_alloc_unbound offer = {.dom = DOMID_SELF, .remote_dom = 2};

        if (HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &offer))
            bail("no port");
        channel = offer.port;
        wait(); /* what is sent before the other has bound is lost */
    } else {
        struct evtchn_bind_interdomain bind = {
            .remote_dom = 1, .remote_port = start_info->console.domU.evtchn + 1};

        while (HYPERVISOR_event_channel_op(EVTCHNOP_bind_interdomain, &bind))
            yield();
        channel = bind.local_port;
        seen(); /* binding itself raises it */
        tell();
    }
}

/* Waits until the other domain has ended: its end of the channel is closed then. */
static void wait_for_end(void)
{
    struct evtchn_status status = {.dom = DOMID_SELF, .port = channel};

    do {
        yield();
        HYPERVISOR_event_channel_op(EVTCHNOP_status, &status);
    } while (status.status == EVTCHNSTAT_interdomain);
}

#endif
