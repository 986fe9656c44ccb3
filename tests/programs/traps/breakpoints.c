// cowbird: description = breakpoints on code and data by the debug registers: #DB, DR6, RF
/*
 * A breakpoint on code is a fault before the instruction; the handler sets RF in the flags that it
 * returns to, or it would happen again. One on data is a trap behind the instruction. DR6 adds up.
 *
 * Source: Intel SDM volume 3B, 18.2 and 18.3; xen/arch/x86/traps.c (do_debug), pv/misc-hypercalls.c.
 */
#include "cowbird.h"

#define L(n) (1u << (2 * (n)))
#define KIND(n, rw, len) ((uint64_t)((rw) | (len) << 2) << (16 + 4 * (n)))
#define CODE 0u
#define WRITE 1u
#define ACCESS 3u
#define RF 0x10000u

static volatile unsigned int count, order;
static volatile uint64_t rips[8], flags[8], dr6[8];
static volatile uint64_t data[8] __attribute__((aligned(64)));
extern char target[], behind[], again[];

static bool on_debug(struct regs *regs)
{
    if (count < 8) {
        rips[count] = regs->rip;
        flags[count] = regs->rflags;
        dr6[count] = (uint64_t)HYPERVISOR_get_debugreg(6);
    }
    count++;
    regs->rflags |= RF;
    return true;
}

static void __attribute__((noinline)) code(void)
{
    __asm__ volatile(".globl target, behind, again\n"
                     "target: incl %0\n"
                     "behind: incl %0\n"
                     "movl $3, %%ecx\n"
                     "again: loop again\n"
                     : "+m"(order)
                     :
                     : "rcx", "cc", "memory");
}

static void reset(void)
{
    HYPERVISOR_set_debugreg(6, 0xffff0ff0);
    count = order = 0;
}

static long arm(unsigned int n, const volatile void *where, unsigned int rw, unsigned int len)
{
    long answer;

    HYPERVISOR_set_debugreg(7, 0);
    answer = HYPERVISOR_set_debugreg((int)n, (unsigned long)where);
    if (answer == 0)
        answer = HYPERVISOR_set_debugreg(7, L(n) | KIND(n, rw, len));
    reset();
    return answer;
}

int main(void)
{
    uint64_t value;

    set_handler(TRAP_DB, on_debug);
    ktap_plan(56);

    ok_result(arm(0, target, CODE, 0), 0, "a breakpoint on code");
    code();
    ok_value(count, 1, "happens once");
    ok_value(order, 2, "and all of it ran");
    ok_value(rips[0], (uint64_t)target, "before the instruction");
    ok_value(flags[0] & RF, 0, "without RF");
    ok_value(dr6[0] & 0xf, 1, "DR6 says which");
    ok_value(dr6[0] & 0x4000, 0, "and that it is no step");
    code();
    ok_value(count, 2, "and again");
    ok_result(HYPERVISOR_set_debugreg(7, 0), 0, "off");
    code();
    ok_value(count, 2, "not any more");

    ok_result(arm(3, again, CODE, 0), 0, "in a loop");
    code();
    ok_value(count, 3, "each time round");
    ok_value(dr6[0] & 0xf, 8, "the fourth");

    reset();
    HYPERVISOR_set_debugreg(0, (unsigned long)target);
    HYPERVISOR_set_debugreg(1, (unsigned long)target);
    HYPERVISOR_set_debugreg(2, (unsigned long)behind);
    HYPERVISOR_set_debugreg(7, L(0) | L(1) << 1 | L(2));
    code();
    ok_value(count, 2, "two at one place, one behind");
    ok_value(dr6[0] & 0xf, 3, "the two");
    ok_value(dr6[1] & 0xf, 7, "DR6 adds up");
    ok_value(rips[1], (uint64_t)behind, "the one behind");

    /* Single steps on top. */
    ok_result(arm(0, behind, CODE, 0), 0, "one that is stepped to");
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; pushfq; andq $~0x100, (%%rsp); popfq"
                     ::: "memory", "cc");
    ok(count >= 2, "steps work too");
    ok_value(dr6[0] & 0x400f, 0x4000, "and say so");

    /* Data. */
    ok_result(arm(1, &data[2], WRITE, 2), 0, "a breakpoint on writes of 8 bytes");
    value = data[2];
    ok_value(count, 0, "reading is none");
    __asm__ volatile("movq $5, %0; nop" : "=m"(data[2]));
    ok_value(count, 1, "writing is");
    ok_value(dr6[0] & 0x400f, 2, "DR6 says which");
    ok_value(flags[0] & RF, 0, "no RF");
    ok_value(data[2], 5, "it was written");
    data[1] = 1;
    data[3] = 1;
    ok_value(count, 1, "what is beside it does not count");
    *(volatile uint8_t *)((uint64_t)&data[2] + 7) = 0;
    ok_value(count, 2, "a byte of it does");
    *(volatile uint64_t *)((uint64_t)&data[2] - 4) = 0;
    ok_value(count, 3, "and what overlaps");

    ok_result(arm(2, &data[2], ACCESS, 3), 0, "one on reads and writes of 4 bytes");
    value = data[2];
    ok_value(count, 1, "reading counts");
    ok_value(dr6[0] & 0xf, 4, "DR6");
    value += *(volatile uint32_t *)((uint64_t)&data[2] + 4);
    ok_value(count, 1, "the next 4 bytes do not");
    __asm__ volatile("lock incl %0" : "+m"(data[2]) : : "cc");
    ok(count == 2, "read and written is once");
    ok_result(HYPERVISOR_set_debugreg(7, 0), 0, "off");
    value += data[2];
    ok_value(count, 2, "not any more");

    ok_result(arm(0, &data[4], WRITE, 2), 0, "before rep stos");
    {
        void *to = (void *)&data[3];
        unsigned long times = 3;

        __asm__ volatile("rep stosq" : "+D"(to), "+c"(times) : "a"(7UL) : "memory");
        ok_value(times, 0, "which runs to its end");
    }
    ok_value(count, 1, "with one stop");
    ok_value(data[5], 7, "and stores all");

    /* What may not be. */
    ok_result(HYPERVISOR_set_debugreg(0, MACH2PHYS_VIRT_START), -EPERM, "Xen's range");
    ok_result(HYPERVISOR_set_debugreg(7, L(0) | KIND(0, 2, 0)), -EPERM, "I/O without CR4.DE");
    ok_result(HYPERVISOR_set_debugreg(7, 0x2000), -EPERM, "general detection");
    ok_result(HYPERVISOR_set_debugreg(7, 1UL << 32), -EINVAL, "bits that are not there");
    ok_result(HYPERVISOR_set_debugreg(6, 1UL << 32), -EINVAL, "nor in DR6");
    ok_value((uint64_t)HYPERVISOR_get_debugreg(7), L(0) | KIND(0, WRITE, 2) | 0x400, "it stays");

    /* By instructions, and with ports. */
    HYPERVISOR_set_debugreg(7, 0);
    reset();
    __asm__ volatile("movq %0, %%dr0; movq %1, %%dr7" : : "r"(target), "r"((uint64_t)L(0)));
    code();
    ok_value(count, 1, "mov to DR7 arms too");
    __asm__ volatile("movq %%dr6, %0" : "=r"(value));
    ok_value(value & 0xf, 1, "mov from DR6");
    __asm__ volatile("movq %0, %%dr7" : : "r"(0UL));
    code();
    ok_value(count, 1, "and disarms");
    __asm__ volatile("movq %%cr4, %0; orq $8, %0; movq %0, %%cr4" : "=&r"(value)); /* DE */
    ok_result(arm(0, (void *)0x80, 2, 0), 0, "a breakpoint on a port");
    {
        struct physdev_set_iopl iopl = {1};

        ok_result(HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "with IOPL 1");
        __asm__ volatile("outb %%al, $0x81" : : "a"(0));
        ok_value(count, 0, "another port is none");
        __asm__ volatile("outb %%al, $0x80" : : "a"(0));
        ok_value(count, 1, "that one is");
        ok_value(dr6[0] & 0xf, 1, "DR6");
        __asm__ volatile("inl $0x7d, %%eax" : : : "eax");
        ok_value(count, 2, "and what overlaps");
        ok_value((uint64_t)HYPERVISOR_get_debugreg(7), L(0) | KIND(0, 2, 0) | 0x400, "DR7");
    }
    return 0;
}
