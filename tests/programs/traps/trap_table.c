// cowbird: description = set_trap_table: several entries, bad ones, clearing all
// cowbird: environments = pv64, pv32, xen
/* Entries before a bad one stay (Xen: do_set_trap_table); a null pointer clears the whole table. */

#include "frame.h"

static unsigned int calls;

static bool skip_int(struct regs *regs)
{
    calls++;
    return true;
}

static void int_0x80(void *unused)
{
    __asm__ volatile("int $0x80");
}

static long user_int_0x80(long unused)
{
    __asm__ volatile("int $0x80");
    return 5;
}

static void int3(void *unused)
{
    __asm__ volatile("int3");
}

static void ud2(void *unused)
{
    __asm__ volatile("ud2");
}

int main(void)
{
    struct trap_info table[3] = {
        {.vector = TRAP_BP, .flags = 7, .cs = FLAT_KERNEL_CS, .address = (unsigned long)raw_entry},
        {.vector = TRAP_UD, .flags = 4, .cs = FLAT_KERNEL_CS, .address = BAD_ADDRESS},
    };
    long value = 0;

    ktap_plan(TOP_LEVEL == 4 ? 10 : 8);
    ok_result(HYPERVISOR_set_trap_table((void *)0x5000), -EFAULT, "a table that is not there");
    /* Of a 32-bit address nothing is checked: whoever gets there faults. */
    if (TOP_LEVEL == 3)
        table[1].address = 0;
    ok_result(HYPERVISOR_set_trap_table(table), TOP_LEVEL == 4 ? -EINVAL : 0,
              "a handler at a non-canonical address");
    raw_run(int3, NULL);
    ok_value(raw.count, 1, "the entry before it is in force");
    ok_value(raw.word[FRAME_RIP] - (unsigned long)int3 < 16, 1, "with its frame");
    if (TOP_LEVEL == 4) { /* for a 32-bit kernel that would be the end: the selector is used */
        table[0] =
            (struct trap_info){.vector = TRAP_UD, .cs = 0, .address = (unsigned long)raw_entry};
        table[1].address = 0;
        ok_result(HYPERVISOR_set_trap_table(table), 0, "a null code selector");
        raw_run(ud2, NULL);
        ok_value(raw.count, 2, "is taken for the kernel's");
    }

    set_handler(0x80, skip_int);
    set_trap_dpl(0x80, 0);
    ok_fault(user_run(user_int_0x80, 0, &value), NO_FAULT, "int 0x80 does not look at the DPL");
    ok_value(value, 5, "and is returned from");
    ok_fault(catch_fault(int_0x80, NULL), NO_FAULT, "nor from the kernel");
    ok_value(calls, 2, "both arrived");
    return 0;
}
