// cowbird: description = event upcalls: masking of the vCPU and of a port, pending bits, unmask
// cowbird: environments = pv64, pv32, xen
/*
 * An event sets the port's pending bit, the selector and upcall_pending; the callback is entered
 * on the way out of the hypervisor if upcall_mask is 0, and finds it set to 1. Masked ports become
 * pending only (event_channel.h; Xen: evtchn_2l_set_pending, process_event).
 */

#include "frame.h"

static unsigned int calls;
static uint8_t mask_inside;
static struct regs seen;

static bool on_event(struct regs *regs)
{
    calls++;
    mask_inside = event_mask();
    seen = *regs;
    return false; /* the kit handles the ports */
}

static void nothing(evtchn_port_t port)
{
}

static bool pending(long port)
{
    return shared_info->evtchn_pending[0] >> port & 1;
}

int main(void)
{
    long port = bind_ipi();
    struct evtchn_unmask unmask = {.port = (evtchn_port_t)port};

    ktap_plan(15);
    set_handler(TRAP_EVENT, on_event);
    set_event_handler((evtchn_port_t)port, nothing);
    ok_result(event_send((evtchn_port_t)port), 0, "an event, while the vCPU masks them");
    ok_value(calls, 0, "no upcall");
    ok(pending(port) && shared_info->vcpu_info[0].evtchn_upcall_pending, "but it is pending");
    ok_value(shared_info->vcpu_info[0].evtchn_pending_sel, 1, "and selected");
    events_on();
    ok_value(calls, 1, "unmasked: one upcall");
    ok_value(mask_inside, 1, "in it events are masked");
    ok_value(seen.saved_upcall_mask, 0, "and were not before");
    ok(seen.rflags & FLAGS_IF, "the frame's IF says so too");
    ok_value(event_mask(), 0, "after it they are not");
    event_send((evtchn_port_t)port);
    ok_value(calls, 2, "an event sent to oneself comes at once");

    __atomic_or_fetch(&shared_info->evtchn_mask[0], 1UL << port, __ATOMIC_SEQ_CST);
    event_send((evtchn_port_t)port);
    ok_value(calls, 2, "a masked port makes no upcall");
    ok(pending(port), "only its bit is set");
    ok_result(HYPERVISOR_event_channel_op(EVTCHNOP_unmask, &unmask), 0, "unmasked");
    ok_value(calls, 3, "the upcall comes");
    ok(!pending(port), "and the kit has cleared the bit");
    events_off();
    return 0;
}
