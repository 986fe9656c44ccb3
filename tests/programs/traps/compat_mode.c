// cowbird: description = user code in compatibility mode: 32-bit instructions, its frame, int 0x80
/* FLAT_USER_CS32 is there for every guest (xen-x86_64.h). Code at 0x400000, below 4 GiB. */

#include "frame.h"

static char *const at = (char *)0x400000;
static struct regs seen;

static bool on_int(struct regs *regs)
{
    seen = *regs;
    regs->rip = (uint64_t)at + 0x100; /* ud2 */
    return true;
}

static void go(void *unused)
{
    struct regs regs = {
        .rip = (uint64_t)at, .rsp = (uint64_t)at + 0x800, .cs = FLAT_USER_CS32,
        .ss = FLAT_USER_SS32, .rflags = 2, .rax = 0x1111222233334444,
    };

    trap_return(&regs);
}

int main(void)
{
    /* inc eax (in 64-bit mode a REX prefix); push eax; mov eax, [esp]; int 0x80 */
    static const uint8_t code[] = {0x40, 0x50, 0x8b, 0x04, 0x24, 0xcd, 0x80};
    char *page = page_alloc();

    ktap_plan(8);
    memcpy(page, code, sizeof(code));
    page[0x100] = 0x0f;
    page[0x101] = 0x0b;
    user_map(at, make_pte(va_mfn(page), PTE_USER_RW));
    set_handler(0x80, on_int);
    set_trap_dpl(0x80, 3);
    set_trap_entry(TRAP_UD, 4, FLAT_KERNEL_CS, raw_entry);
    raw_run(go, NULL);
    ok_value(seen.rax, 0x33334445, "inc eax: the upper half of rax is gone");
    ok_value(seen.rsp, at + 0x7fc, "a push is of 4 bytes");
    ok_value(seen.cs, FLAT_USER_CS32, "cs");
    ok_value(seen.rip, at + sizeof(code), "rip");
    ok_value(*(uint32_t *)(page + 0x7fc), 0x33334445, "what was pushed");
    ok_value(raw.count, 1, "then ud2");
    ok_value(raw.word[2], at + 0x100, "at its rip");
    ok_value(raw.word[3] & 0xffff, FLAT_USER_CS32, "in compatibility mode again");
    return 0;
}
