// cowbird: description = cli, sti, hlt, in, out from kernel and user, with each virtual IOPL
// cowbird: environments = pv64, pv32, xen
/*
 * CLI, STI, IN and OUT are allowed by the virtual IOPL (physdev_op set_iopl): the kernel needs 1,
 * the user 3; CLI and STI then do nothing, since a PV kernel has the event mask for that. HLT is
 * #GP (Xen: pv_emulate_privileged_op, guest_io_okay, iopl_ok).
 */

#include "frame.h"

static void cli(void *unused)
{
    __asm__ volatile("cli");
}

static void sti(void *unused)
{
    __asm__ volatile("sti");
}

static void hlt(void *unused)
{
    __asm__ volatile("hlt");
}

static void out_80(void *unused)
{
    __asm__ volatile("outb %%al, $0x80" : : "a"(0));
}

static long user_cli(long unused)
{
    __asm__ volatile("cli");
    return 0;
}

static long user_in_80(long unused)
{
    uint8_t value;

    __asm__ volatile("inb $0x80, %0" : "=a"(value));
    return value;
}

static long set_iopl(uint32_t iopl)
{
    struct physdev_set_iopl argument = {.iopl = iopl};

    return HYPERVISOR_physdev_op(PHYSDEVOP_set_iopl, &argument);
}

int main(void)
{
    ktap_plan(15);
    set_iopl(0);
    ok_fault(catch_fault(cli, NULL), GP(0), "IOPL 0: cli is #GP");
    ok_fault(catch_fault(sti, NULL), GP(0), "sti too");
    if (is_privileged())
        skip("the first domain has all ports", "out too");
    else
        ok_fault(catch_fault(out_80, NULL), GP(0), "out too");
    ok_fault(catch_fault(hlt, NULL), GP(0), "and hlt");
    ok_result(set_iopl(1), 0, "IOPL 1");
    ok_fault(catch_fault(cli, NULL), NO_FAULT, "cli is allowed");
    ok_value(event_mask(), 1, "and leaves the event mask alone");
    set_event_mask(0);
    ok_fault(catch_fault(sti, NULL), NO_FAULT, "so is sti");
    set_event_mask(1);
    ok_fault(catch_fault(out_80, NULL), NO_FAULT, "and out");
    ok_fault(catch_fault(hlt, NULL), GP(0), "hlt is not");
    ok_fault(user_run(user_cli, 0, NULL), GP(0), "the user may not");
    ok_result(set_iopl(3), 0, "IOPL 3");
    ok_fault(user_run(user_cli, 0, NULL), NO_FAULT, "now it may");
    ok_fault(user_run(user_in_80, 0, NULL), NO_FAULT, "in too");
    ok_result(set_iopl(4), -EINVAL, "there is no IOPL 4");
    return 0;
}
