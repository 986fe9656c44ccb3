// cowbird: description = every kind of store to a read-only page is a write fault, also where it reads first
// cowbird: environments = pv64, pv32, xen
/*
 * A read-modify-write asks for write access when it reads: the error code has W, and nothing is
 * loaded or flagged. That holds for a cmpxchg which would not have stored.
 *
 * Source: Intel SDM 3A, 4.7; volume 2 (LOCK, CMPXCHG, XCHG).
 */
#include "cowbird.h"

#define STORE(name, code)                                                                      \
    static void name(void *at)                                                                 \
    {                                                                                          \
        __asm__ volatile(code : : "r"(at), "a"(1UL), "c"(2UL) : "memory", "cc", "dx");          \
    }

STORE(increment, "incl (%0)")
STORE(exchange, "xchg %2, (%0)")
STORE(locked_add, "lock add %2, (%0)")
STORE(no_match, "cmpxchg %2, (%0)")
STORE(bit_set, "btsl $3, (%0)")
STORE(byte_if, "stc; setc (%0)")
STORE(not_taken, "xorl %%edx, %%edx; cmovnzl (%0), %%edx")
STORE(tested, "test %2, (%0)")
STORE(flags, "pop (%0); push $0")
STORE(add_nothing, "addl $0, (%0)")

int main(void)
{
    static const struct {
        void (*store)(void *at);
        const char *name;
    } stores[] = {
        {increment, "inc"},     {exchange, "xchg"},         {locked_add, "lock add"},
        {bit_set, "bts"},       {no_match, "cmpxchg, no match"}, {byte_if, "setc"},
        {flags, "pop"},         {add_nothing, "add 0"},
    };
    char *page = page_alloc();

    ktap_plan(3 + ARRAY_SIZE(stores));
    pte_protect(page, PTE_RO);
    for (unsigned int i = 0; i < ARRAY_SIZE(stores); i++)
        ok_fault(catch_fault(stores[i].store, page + 16), PF(PF_P | PF_W), "%s", stores[i].name);
    ok_fault(catch_fault(not_taken, page + 16), NO_FAULT, "a cmov only reads");
    ok_fault(catch_fault(tested, page + 16), NO_FAULT, "so does test");
    ok_value(*(uint64_t *)(page + 16), 0, "nothing was written");
    return 0;
}
