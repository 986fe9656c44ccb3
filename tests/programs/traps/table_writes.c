// cowbird: description = stores to an L1 table: emulated as checked updates with the assist, faults without
/*
 * With VMASST_TYPE_writable_pagetables a kernel's aligned store of up to 8 bytes to a read-only
 * mapped L1 table of its own is carried out as a checked update. An entry that is refused is the
 * fault that the store had, as is any store that is not aligned or too wide, and any to a table of
 * a higher level. The privileged domain has no need of the assist.
 *
 * Source: xen/arch/x86/pv/ro-page-fault.c, traps.c (fixup_page_fault).
 */
#include "cowbird.h"

#define W PF(PF_P | PF_W)

static char *const where = (char *)AWAY;
static uint64_t *slot;
static uint64_t rax, rcx, flags, source;

#define STORE(name, code)                                                                      \
    static void name(void *at)                                                                 \
    {                                                                                          \
        __asm__ volatile(code "; pushfq; popq %2"                                              \
                         : "+a"(rax), "+c"(rcx), "=r"(flags)                                   \
                         : "r"(at), "D"(at), "S"(&source)                                         \
                         : "memory", "cc", "rdx");                                             \
    }

STORE(mov, "movq %%rcx, (%3)")
STORE(mov_imm, "movq $0, (%3)")
STORE(mov_low, "movl %%ecx, (%3)")
STORE(mov_high, "movl %%ecx, 4(%3)")
STORE(mov_ah, "movb %%ah, (%4)")
STORE(mov_crooked, "movl %%ecx, 2(%3)")
STORE(mov_indexed, "xorl %%edx, %%edx; movq %%rcx, -64(%3, %%rdx, 8); movq %%rcx, (%3, %%rdx, 8)")
STORE(xchg, "xchgq %%rcx, (%3)")
STORE(cmpxchg, "lock cmpxchgq %%rcx, (%3)")
STORE(and, "lock andq %%rcx, (%3)")
STORE(or, "orq %%rcx, (%3)")
STORE(or_imm, "lock orb $2, (%3)")
STORE(btr, "lock btrq $1, (%3)")
STORE(bts, "lock btsq %%rcx, (%3)")
STORE(btc, "btcl %%ecx, (%3)")
STORE(xadd, "lock xaddq %%rcx, (%3)")
STORE(inc, "incb 1(%3)")
STORE(sub, "subq %%rcx, (%3)")
STORE(stos, "cld; rep stosq")
STORE(movs, "cld; movsq")
STORE(mov16, "movups %%xmm0, (%3)")
STORE(mov_far, "movq %%rcx, 4096(%3)")

static fault_t run(void (*store)(void *at), uint64_t a, uint64_t c)
{
    rax = a;
    rcx = c;
    return catch_fault(store, slot);
}

int main(void)
{
    char *page = page_alloc(), *other = page_alloc(), *gone = page_alloc(), *table;
    mfn_t freed = va_mfn(gone);
    uint64_t entry = make_pte(va_mfn(page), PTE_RW), second = make_pte(va_mfn(other), PTE_RW);
    const uint64_t ad = PTE_A | PTE_D;

    ktap_plan(76);
    page[0] = 1;
    other[0] = 2;
    ok_result(pte_map(where, entry), 0, "a page");
    table = pfn_va(m2p[pte_mfn(pte_get_at(l4_current(), where, 2))]);
    slot = (uint64_t *)table;
    ok_fault(run(mov, 0, second), is_privileged() ? NO_FAULT : W, "without the assist");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "assist");
    ok_fault(run(mov, 0, second), NO_FAULT, "mov");
    flush_tlb();
    ok_value(*where, 2, "another page is there");
    ok_value(*slot & PTE_P, PTE_P, "");
    ok_fault(run(mov, 0, make_pte(l4_current(), PTE_RW)), W, "a writable page table is refused");
    ok_fault(run(mov, 0, make_pte(l4_current(), PTE_RO)), NO_FAULT, "a read-only one is not");
    ok_fault(run(mov, 0, make_pte(INVALID_MFN & 0xffffffff, PTE_RO)), W, "nor a frame that is not");
    page_release(gone);
    ok_fault(run(mov, 0, make_pte(freed, PTE_RO)), W, "nor one that is not the guest's");
    ok_value(pte_mfn(*slot), l4_current(), "nothing of that was stored");
    ok_fault(run(mov_imm, 0, 0), NO_FAULT, "mov of 0");
    ok_value(*slot, 0, "is stored");
    ok_fault(run(mov_low, 0, 0x12345670), NO_FAULT, "4 bytes");
    ok_fault(run(mov_high, 0, 0x9abcdef0), NO_FAULT, "the other 4");
    ok_value(*slot, 0x9abcdef012345670, "of an absent entry");
    ok_fault(run(mov_ah, 0x7e00, 0), NO_FAULT, "one byte");
    ok_value(*slot, 0x9abcdef01234567e, "is changed");
    ok_fault(run(mov_crooked, 0, 0), W, "a store that is not aligned");
    ok_fault(run(mov16, 0, 0), W, "one of 16 bytes");
    ok_fault(run(xchg, 0, entry | ad), NO_FAULT, "xchg");
    ok_value(rcx, 0x9abcdef01234567e, "gives what was there");
    flush_tlb();
    ok_value(*where, 1, "and maps the page");
    entry = *slot;
    ok_fault(run(cmpxchg, 5, 0), NO_FAULT, "cmpxchg that does not match");
    ok_value(rax, entry, "loads rax");
    ok_value(flags & 0x40, 0, "and clears ZF");
    ok_fault(run(cmpxchg, entry, second | ad), NO_FAULT, "cmpxchg that does");
    ok_value(flags & 0x40, 0x40, "sets ZF");
    ok_value(pte_mfn(*slot), va_mfn(other), "and stores");
    ok_fault(run(btr, 0, 0), NO_FAULT, "btr of RW");
    ok_value(flags & 1, 1, "it was set");
    ok_value(*slot & PTE_W, 0, "it is clear");
    flush_tlb();
    ok_fault(probe_write(where), W, "and the page is read-only");
    ok_fault(run(btr, 0, 0), NO_FAULT, "btr again");
    ok_value(flags & 1, 0, "it was clear");
    ok_fault(run(bts, 0, 1), NO_FAULT, "bts by register");
    ok_value(*slot & PTE_W, PTE_W, "sets it");
    ok_fault(run(bts, 0, 64 * 8 + 3), NO_FAULT, "far away");
    ok_value(slot[8], 8, "in another entry");
    ok_fault(run(btc, 0, 32 * 16 + 4), NO_FAULT, "btc");
    ok_fault(run(btc, 0, 32 * 16 + 3), NO_FAULT, "twice");
    ok_value(slot[8], 16, "gives");
    ok_fault(run(bts, 0, (uint64_t)-1), W, "before the table is no table");
    ok_fault(run(and, 0, ~PTE_W), NO_FAULT, "lock and");
    ok_value(*slot & PTE_W, 0, "clears RW");
    ok_fault(run(or_imm, 0, 0), NO_FAULT, "lock or of a byte");
    ok_value(*slot & PTE_W, PTE_W, "sets it");
    ok_fault(run(or, 0, 0xe00), NO_FAULT, "or");
    ok_value(*slot & 0xe00, 0xe00, "of AVL");
    ok_fault(run(sub, 0, 0x200), NO_FAULT, "sub");
    ok_value(*slot & 0xe00, 0xc00, "of AVL");
    entry = *slot;
    ok_fault(run(and, 0, 0), NO_FAULT, "and with 0");
    ok_value(flags & 0x8c5, 0x44, "sets ZF and PF");
    ok_fault(run(xadd, 0, 0x100), NO_FAULT, "xadd");
    ok_value(*slot, 0x100, "adds");
    ok_fault(run(xadd, 0, (uint64_t)-0x200), NO_FAULT, "xadd");
    ok_value(*slot, (uint64_t)-0x100, "adds");
    ok_value(rcx, 0x100, "and loads");
    ok_value(flags & 0x8d5, 0x84, "with the sum's flags");
    ok_fault(run(inc, 0, 0), NO_FAULT, "inc of a byte");
    ok_value(*slot, 0xffffffffffff0000, "wraps");
    ok_value(flags & 0x8d4, 0x54, "with its flags");
    ok_fault(run(stos, 0x1230, 2), NO_FAULT, "rep stosq");
    ok_value(slot[0], 0x1230, "of one");
    ok_value(slot[1], 0x1230, "and of the next");
    ok_value(rcx, 0, "rcx is used up");
    source = entry;
    ok_fault(run(movs, 0, 0), NO_FAULT, "movsq");
    ok_value(pte_mfn(*slot), va_mfn(other), "maps");
    flush_tlb();
    ok_value(*where, 2, "the page");
    ok_fault(run(mov_indexed, 0, 0), W, "an address before the table");
    slot += 8;
    ok_fault(run(mov_indexed, 0, 0x5550), NO_FAULT, "one with an index");
    ok_value(*slot, 0x5550, "is stored");
    slot -= 8;
    ok_fault(user_write(slot), PF(PF_U | PF_W), "user mode does not even see it");
    slot = (uint64_t *)pfn_va(m2p[pte_mfn(pte_get_at(l4_current(), where, 3))]);
    ok_fault(run(mov, 0, 0), W, "an L2 table is not written so");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0, "off");
    slot = (uint64_t *)table;
    ok_fault(run(mov, 0, 0), is_privileged() ? NO_FAULT : W, "without the assist again");
    return 0;
}
