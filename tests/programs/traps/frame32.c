// cowbird: description = the 32-bit bounce frame from kernel and user mode, and the ways back by iret
// cowbird: environments = pv32
/*
 * Upward from ESP: [error code], eip, cs | event mask << 16, eflags, and only from user mode esp, ss.
 * From the kernel (ring 1) it lies right below the interrupted ESP, from the user (ring 3) below the
 * stack that stack_switch named. Nothing is aligned. The kernel's CS keeps RPL 1.
 *
 * The CPU's own iret goes from ring 1 to 1 and 3 and knows nothing of events; the iret hypercall finds
 * eax, eip, cs, eflags (and esp, ss) on the stack, and takes the event mask from IF.
 *
 * Source: xen/arch/x86/x86_64/compat/entry.S (compat_create_bounce_frame, compat_iret).
 */

#include "frame.h"

static char stack[512] __attribute__((aligned(64)));
extern char ud2_at[], pf_at[];

void do_ud2(void *esp);
void do_pf(void *esp);
__asm__("do_ud2:  mov  4(%esp), %esp\n"
        "         stc\n"
        "ud2_at:  ud2\n"
        "do_pf:   mov  4(%esp), %esp\n"
        "pf_at:   movb $1, 0x5000\n");

static __user_data unsigned long user_esp;

static long user_ud2(long unused)
{
    __asm__ volatile("mov %%esp, %0; ud2" : "=m"(user_esp));
    return 0;
}

static void go(void *unused)
{
    user_run(user_ud2, 0, NULL);
}

/* Both ways back into the kernel, with these flags; what is in EAX behind it. */
static unsigned long by_iret(unsigned long flags)
{
    unsigned long result;

    __asm__ volatile("push %1; push %2; push $1f; mov $7, %0; iret\n1:"
                     : "=&a"(result) : "r"(flags), "i"(FLAT_KERNEL_CS) : "memory", "cc");
    return result;
}

static unsigned long by_hypercall(unsigned long flags)
{
    unsigned long result;

    __asm__ volatile("push %1; push %2; push $1f; push $8; mov %3, %0; int $0x82\n1:"
                     : "=&a"(result)
                     : "r"(flags), "i"(FLAT_KERNEL_CS), "i"(__HYPERVISOR_iret) : "memory", "cc");
    return result;
}

int main(void)
{
    char *top = stack + 256;

    ktap_plan(24);
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    for (unsigned int offset = 0; offset < 8; offset += 4) {
        raw_run(do_ud2, top + offset);
        ok_value(raw.rsp, top + offset - 12, "from the kernel: 3 words right below ESP");
    }
    ok_value(raw.word[0], ud2_at, "eip is the instruction's");
    ok_value(raw.word[1], FLAT_KERNEL_CS | 1UL << 16, "cs with RPL 1, event mask above");
    ok(raw.word[2] & FLAGS_CF, "eflags has the carry flag that was set");
    ok(!(raw.word[2] & FLAGS_IF), "and IF clear, since events are masked");
    set_event_mask(0);
    raw_run(do_ud2, top);
    ok_value(raw.word[1], FLAT_KERNEL_CS, "not masked: neither there");
    ok(raw.word[2] & FLAGS_IF, "and IF is set");
    ok_value(event_mask(), 1, "the handler's entry has masked them");

    set_trap_entry(TRAP_PF, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(do_pf, top);
    ok_value(raw.rsp, top - 16, "with an error code: 4 words");
    ok_value(raw.word[0], PF_W, "the code comes first");
    ok_value(raw.word[1], pf_at, "then eip");
    set_trap_entry(TRAP_PF, 4, FLAT_KERNEL_CS, trap_entry(TRAP_PF));

    ok_result(HYPERVISOR_stack_switch(FLAT_KERNEL_SS, (unsigned long)top), 0, "a kernel stack");
    raw_run(go, NULL);
    ok_value(raw.rsp, top - 20, "from the user: 5 words below it");
    ok_value(raw.word[1], FLAT_USER_CS | 1UL << 16, "cs has RPL 3");
    ok_value(raw.word[3], user_esp, "esp is the user's");
    ok_value(raw.word[4], FLAT_USER_SS, "ss too");
    ok_fault(probe_read(stack), NO_FAULT, "the kernel's pages are still its own");

    ok_value(by_iret(2 | FLAGS_IF), 7, "the CPU's iret goes back into the kernel");
    ok_value(event_mask(), 1, "and leaves the event mask alone");
    ok_value(by_hypercall(2 | FLAGS_IF), 8, "the hypercall takes EAX off the stack");
    ok_value(event_mask(), 0, "IF set: events are not masked any more");
    by_hypercall(2);
    ok_value(event_mask(), 1, "IF clear: they are");
    ok(by_hypercall(2 | FLAGS_IOPL | FLAGS_CF) == 8, "and IOPL is not looked at");
    return 0;
}
