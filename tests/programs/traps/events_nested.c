// cowbird: description = events inside the event handler, inside exceptions, and out of user mode
// cowbird: environments = pv64, pv32, xen
/*
 * The upcall masks events; a handler that unmasks them is entered again on the next way out of the
 * hypervisor. An exception whose entry masks events defers them to its iret.
 */

#include "frame.h"

static long port;
static unsigned int depth, deepest, calls;
static bool nest, last_from_user;

static bool on_event(struct regs *regs)
{
    calls++;
    last_from_user = from_user(regs);
    if (++depth > deepest)
        deepest = depth;
    shared_info->vcpu_info[0].evtchn_upcall_pending = 0;
    shared_info->vcpu_info[0].evtchn_pending_sel = 0;
    shared_info->evtchn_pending[0] = 0;
    if (nest && depth < 3) {
        set_event_mask(0);
        event_send((evtchn_port_t)port); /* enters this function again before it returns */
        set_event_mask(1);
    }
    depth--;
    return true;
}

static unsigned int during;

static bool on_ud(struct regs *regs)
{
    event_send((evtchn_port_t)port);
    during = calls;
    regs->rip += 2;
    return true;
}

static bool on_syscall(struct regs *regs)
{
    if (!regs->rax)
        return false;
    event_send((evtchn_port_t)port);
    during = calls;
    return true;
}

static long user(long unused)
{
    return user_syscall(1, 0, 0, 0);
}

int main(void)
{
    ktap_plan(10);
    port = bind_ipi();
    set_handler(TRAP_EVENT, on_event);
    set_event_mask(0);
    event_send((evtchn_port_t)port);
    ok_value(calls, 1, "one event, one upcall");
    nest = true;
    event_send((evtchn_port_t)port);
    ok_value(calls, 4, "a handler that unmasks is entered again");
    ok_value(deepest, 3, "three deep");
    ok_value(event_mask(), 0, "and all return with events unmasked");
    nest = false;

    set_handler(TRAP_UD, on_ud);
    calls = 0;
    __asm__ volatile("ud2");
    ok_value(during, 0, "in an exception handler that masks events: none");
    ok_value(calls, 1, "its iret brings the upcall");
    calls = 0;
    set_handler(TRAP_SYSCALL, on_syscall);
    ok_fault(user_run(user, 0, NULL), NO_FAULT, "a system call during which an event comes");
    ok_value(during, 0, "masked until it returns");
    ok_value(calls, 1, "then the upcall");
    ok(last_from_user, "out of user mode");
    events_off();
    return 0;
}
