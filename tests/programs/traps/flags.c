// cowbird: description = rflags in a bounce frame and in the handler; the virtual interrupt flag
// cowbird: environments = pv64, pv32, xen
/*
 * IF in the frame is the virtual one: the opposite of evtchn_upcall_mask. The handler itself runs
 * with AC (64 bits), NT, RF and TF clear and keeps the others. Only an entry with TI_IF (flags bit 2) masks
 * events. IOPL reads as 0 (Xen: create_bounce_frame). RF is not looked at: hardware saves a fault
 * with RF set, QEMU and Unicorn do not.
 */

#include "frame.h"

/* What a handler keeps of the flags that the test sets. */
#define HANDLERS (FLAGS_DF | FLAGS_ID | FLAGS_CF | (TOP_LEVEL == 3 ? FLAGS_AC : 0))

/* Beside CS in its word: in bits 63-32, or 31-16. */
#define SAVED_MASK (raw.word[FRAME_RIP + 1] >> 4 * sizeof(long))

static void ud2_with_flags(void *extra)
{
    __asm__ volatile("pushf; or %0, (" STACK_POINTER "); popf; ud2" : : "r"(extra) : "memory");
}

int main(void)
{
    unsigned long extra = FLAGS_NT | FLAGS_AC | FLAGS_DF | FLAGS_ID | FLAGS_CF;

    ktap_plan(11);
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(ud2_with_flags, NULL);
    ok(!(raw.word[FRAME_RIP + 2] & FLAGS_IF), "events masked: IF is clear in the frame");
    ok_value(SAVED_MASK, 1, "and the saved mask is 1");
    ok(raw.rflags & FLAGS_IF, "the real IF is always set");
    set_event_mask(0);
    raw_run(ud2_with_flags, NULL);
    ok(raw.word[FRAME_RIP + 2] & FLAGS_IF, "not masked: IF is set");
    ok_value(SAVED_MASK, 0, "and the saved mask is 0");
    ok_value(event_mask(), 1, "an entry with TI_IF masks events");
    set_trap_entry(TRAP_UD, 0, FLAT_KERNEL_CS, raw_entry);
    set_event_mask(0);
    raw_run(ud2_with_flags, NULL);
    ok_value(event_mask(), 0, "one without does not");
    set_event_mask(1);
    raw_run(ud2_with_flags, NULL);
    ok_value(event_mask(), 1, "nor does it unmask");

    raw_run(ud2_with_flags, (void *)extra);
    ok_value(raw.word[FRAME_RIP + 2] & extra, extra, "NT, AC, DF, ID and CF are in the frame");
    ok_value(raw.rflags & extra, HANDLERS, "the handler: no NT, and AC only for 32 bits");
    ok_value(raw.word[FRAME_RIP + 2] & FLAGS_IOPL, 0, "IOPL reads as 0");
    return 0;
}
