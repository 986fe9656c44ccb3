// cowbird: description = the user's address space: updates, another L4, pages marked global by Xen
/*
 * Xen gives user pages G, to keep them in the TLB while the kernel runs; a flush and a new L4 must
 * drop them all the same.
 *
 * Source: xen/arch/x86/pv/mm.h; Intel SDM 3A, 4.10.2.4.
 */
#include "cowbird.h"

static char *const at = (char *)FURTHER_AWAY;

static long load(long va)
{
    return *(volatile char *)va;
}

static long seen(void)
{
    long value = -1;

    user_run(load, (long)at, &value);
    return value;
}

int main(void)
{
    char *a = page_alloc(), *b = page_alloc();
    mfn_t first, second;

    ktap_plan(11);
    memset(a, 'a', PAGE_SIZE);
    memset(b, 'b', PAGE_SIZE);
    first = user_l4();
    ok_result(user_map(at, make_pte(va_mfn(a), PTE_USER_RW)), 0, "a page");
    ok_value(seen(), 'a', "the user reads it");
    ok_result(user_map(at, make_pte(va_mfn(b), PTE_USER_RO)), 0, "another frame");
    flush_tlb();
    ok_value(seen(), 'b', "after a flush it reads that");
    ok_fault(user_write(at), PF(PF_P | PF_W | PF_U), "and cannot write it");
    second = user_l4_new();
    ok_result(pte_map_at(second, at, make_pte(va_mfn(a), PTE_USER_RO)), 0, "another address space");
    ok_value(seen(), 'b', "not loaded yet");
    ok_result(user_l4_load(second), 0, "loaded");
    ok_value(seen(), 'a', "its page");
    ok_result(user_l4_load(first), 0, "back");
    ok_value(seen(), 'b', "the first one's page");
    return 0;
}
