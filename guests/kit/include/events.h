/*
 * Event channels. Events are masked until events_on(); then Xen calls the handler of each port
 * that is pending, with events masked.
 */

#ifndef COWBIRD_EVENTS_H
#define COWBIRD_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "xen.h"

typedef void (*event_handler_t)(evtchn_port_t port);

/* NULL takes it away; a port without a handler is just counted as seen. */
void set_event_handler(evtchn_port_t port, event_handler_t handler);

/* A new port, unmasked, or a negative errno. */
long bind_virq(unsigned int virq);
long bind_ipi(void);
long event_send(evtchn_port_t port);
long event_close(evtchn_port_t port);

void events_on(void);
void events_off(void);

/* Sleeps until an event comes (SCHEDOP_block, which unmasks events as it sleeps). */
void block(void);

/* Nanoseconds since boot, from shared_info and the TSC. */
uint64_t time_ns(void);

#endif
