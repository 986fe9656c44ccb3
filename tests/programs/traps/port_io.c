// cowbird: description = IN, OUT, INS, OUTS: sizes, the virtual IOPL, faults of the memory operand
/*
 * The kernel needs IOPL 1, user mode 3 (without the assist architectural_iopl). Port 0x70 keeps what
 * was written; ports that nobody has read as ones.
 *
 * Source: xen/arch/x86/pv/emul-priv-op.c (iopl_ok, guest_io_okay, guest_io_read, rep_ins, rep_outs).
 */
#include "cowbird.h"

static char buffer[64] __attribute__((aligned(64)));
static char *where;
static unsigned long count;

static long set_iopl(uint32_t iopl)
{
    struct physdev_set_iopl argument = {.iopl = iopl};

    return HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &argument);
}

static void rep_insb(void *unused)
{
    void *to = where;

    __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x5555) : "memory");
    where = to;
}

static void rep_outsw(void *unused)
{
    const void *from = where;

    __asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(0x5554) : "memory");
    where = (char *)from;
}

static long user_ins(long unused)
{
    __asm__ volatile("inb $0xe0, %%al" : : : "al");
    return 0;
}

int main(void)
{
    uint64_t wide = 0x1122334455667788;
    uint16_t word;
    uint32_t dword;

    ktap_plan(24);
    ok_result(set_iopl(1), 0, "IOPL 1");
    __asm__ volatile("inb %%dx, %%al" : "+a"(wide) : "d"(0x5555));
    ok_value(wide, 0x11223344556677ff, "inb changes a byte");
    __asm__ volatile("inw %%dx, %%ax" : "+a"(wide) : "d"(0x5554));
    ok_value(wide, 0x112233445566ffff, "inw two");
    __asm__ volatile("inl %%dx, %%eax" : "+a"(wide) : "d"(0x5554));
    ok_value(wide, 0xffffffff, "inl four, and clears the rest");
    __asm__ volatile("outb %%al, $0x70" : : "a"(0x0d));
    __asm__ volatile("inl $0x70, %%eax" : "=a"(dword));
    ok_value(dword & 0xff, 0x0d, "port 0x70 reads back");
    __asm__ volatile("inw $0xe0, %%ax" : "=a"(word));
    ok_value(word, 0xffff, "an immediate port");

    where = buffer;
    count = 4;
    ok_fault(catch_fault(rep_insb, NULL), NO_FAULT, "rep insb");
    ok_value(count, 0, "of all");
    ok_value((unsigned long)(where - buffer), 4, "moves on");
    ok(buffer[3] == (char)0xff && buffer[4] == 0, "and stores");
    where = buffer;
    count = 3;
    ok_fault(catch_fault(rep_outsw, NULL), NO_FAULT, "rep outsw");
    ok_value((unsigned long)(where - buffer), 6, "moves on");
    count = 0;
    ok_fault(catch_fault(rep_insb, NULL), NO_FAULT, "of none");
    where = (char *)0x700000000000;
    count = 2;
    ok_fault(catch_fault(rep_insb, NULL), PF(PF_W), "to nowhere");
    ok_value(count, 2, "nothing is done");
    where = (char *)0x700000000000;
    ok_fault(catch_fault(rep_outsw, NULL), PF(0), "from nowhere");
    where = (char *)0x800000000000;
    ok_fault(catch_fault(rep_insb, NULL), GP(0), "to where nothing can be");
    ok_fault(user_run(user_ins, 0, NULL), GP(0), "user mode may not");
    ok_result(set_iopl(3), 0, "IOPL 3");
    ok_fault(user_run(user_ins, 0, NULL), NO_FAULT, "now it may");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_enable, VMASST_TYPE_architectural_iopl), 0,
              "the IOPL as hardware has it");
    ok_result(set_iopl(0), 0, "IOPL 0");
    where = buffer;
    count = 1;
    ok_fault(catch_fault(rep_insb, NULL), NO_FAULT, "is enough for ring 0 then");
    ok_fault(user_run(user_ins, 0, NULL), GP(0), "and not for user mode");
    return 0;
}
