// cowbird: description = 32-bit stores to an L1 table (PAE): both halves, cmpxchg8b, halves in the wrong order
// cowbird: environments = pv32
/*
 * A 32-bit kernel writes an entry of 64 bits in two halves, or by CMPXCHG8B. Each store is a checked
 * update. Whoever writes the upper half first may pass through a frame that is not the guest's: Xen
 * then takes P away, and expects the lower half next.
 *
 * Source: xen/arch/x86/pv/ro-page-fault.c (ptwr_emulated_update).
 */
#include "cowbird.h"

#define W PF(PF_P | PF_W)

static volatile uint32_t *slot;
static uint64_t old_value, new_value;
static bool matched;

static void low(void *value)
{
    slot[0] = (uint32_t)(unsigned long)value;
}

static void high(void *value)
{
    slot[1] = (uint32_t)(unsigned long)value;
}

static void exchange(void *unused)
{
    __asm__ volatile("lock cmpxchg8b (%3); sete %1"
                     : "+A"(old_value), "=q"(matched)
                     : "b"((uint32_t)new_value), "r"(slot), "c"((uint32_t)(new_value >> 32))
                     : "memory", "cc");
}

static fault_t write_low(uint64_t entry)
{
    return catch_fault(low, (void *)(unsigned long)(uint32_t)entry);
}

static fault_t write_high(uint64_t entry)
{
    return catch_fault(high, (void *)(unsigned long)(entry >> 32));
}

static fault_t swap(uint64_t from, uint64_t to)
{
    old_value = from;
    new_value = to;
    return catch_fault(exchange, NULL);
}

int main(void)
{
    char *page = page_alloc(), *other = page_alloc(), *where = (char *)AWAY;
    pte_t entry = make_pte(va_mfn(page), PTE_RW), second = make_pte(va_mfn(other), PTE_RW);
    volatile uint64_t *whole;

    ktap_plan(25);
    page[0] = 1;
    other[0] = 2;
    ok_result(pte_map(where, entry), 0, "a page");
    slot = pfn_va(m2p[pte_mfn(pte_get_at(l4_current(), where, 2))]);
    whole = (uint64_t *)slot;
    ok_fault(write_low(second), W, "without the assist");
    ok_result(HYPERVISOR_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "assist");
    ok_fault(write_low(second), NO_FAULT, "the lower half");
    flush_tlb();
    ok_value(*where, 2, "maps another page");
    ok_fault(write_low(make_pte(l4_current(), PTE_RW)), W, "a writable page table is refused");
    ok_value(pte_mfn(*whole), va_mfn(other), "nothing was stored");
    ok_fault(write_low(0), NO_FAULT, "0");
    ok_fault(write_high(PTE_NX), NO_FAULT, "the upper half of an absent entry is the guest's");
    ok_value(*whole, PTE_NX, "as it is written");
    ok_fault(write_low(second), NO_FAULT, "with a lower one");
    ok_value(*whole & PTE_NX, PTE_NX, "a page without execution");
    ok_fault(probe_exec(where), PF(PF_P | PF_I), "is there");

    ok_fault(write_high((uint64_t)0xfffff << 32), NO_FAULT, "a frame that there is not, above");
    ok_value(*whole & PTE_P, 0, "takes P away");
    ok_fault(probe_read(where), PF(0), "nothing is mapped");
    ok_fault(write_high(0), NO_FAULT, "the right upper half");
    ok_fault(write_low(entry), NO_FAULT, "and the lower one");
    flush_tlb();
    ok_value(*where, 1, "map the first page");

    entry = *whole;
    ok_fault(swap(entry ^ PTE_AVL0, second), NO_FAULT, "cmpxchg8b that does not match");
    ok(!matched && old_value == entry, "loads what is there");
    ok_fault(swap(entry, second | PTE_NX), NO_FAULT, "cmpxchg8b that does");
    ok(matched && pte_mfn(*whole) == va_mfn(other), "stores all 8 bytes");
    ok_fault(swap(*whole, make_pte(l4_current(), PTE_RW)), W, "but no page table, writable");
    ok_value(pte_mfn(*whole), va_mfn(other), "nothing was stored");
    return 0;
}
