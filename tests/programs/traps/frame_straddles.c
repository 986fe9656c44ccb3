// cowbird: description = a bounce frame across two pages, and one that begins at a page's end
/* Xen writes the frame word by word; where the pages lie in machine memory makes no difference. */

#include "frame.h"

static char stack[3 * 4096] __attribute__((aligned(4096)));

static void ud2_on(void *rsp)
{
    __asm__ volatile("mov %0, %%rsp; ud2" : : "r"(rsp));
}

int main(void)
{
    char *second = stack + PAGE_SIZE;

    ktap_plan(6);
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(ud2_on, second + 16);
    ok_value(raw.rsp, second + 16 - 56, "five words on the lower page, the rest on the upper");
    ok_value(raw.word[5], second + 16, "rsp is right");
    ok_value(*(uint64_t *)second, second + 16, "it is the first word of the upper page");
    ok_value(raw.word[6], FLAT_KERNEL_SS, "and the last of all");
    raw_run(ud2_on, second);
    ok_value(raw.rsp, second - 56, "a stack at the very beginning of a page");
    ok_value(raw.word[5], second, "rsp");
    return 0;
}
