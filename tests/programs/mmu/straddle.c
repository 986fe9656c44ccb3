// cowbird: description = a store across a page end: all of it or nothing
// cowbird: environments = pv64, pv32, xen
/*
 * Both pages are checked before anything is written: a fault leaves the first page as it was, and
 * CR2 is the first byte that failed.
 *
 * Source: Intel SDM 3A, 4.7 and 6.5 (faults: the state is that before the instruction).
 */
#include "cowbird.h"

int main(void)
{
    char *two = page_alloc(), *second = page_alloc();
    unsigned long value = 7, word = (unsigned long)0x1122334455667788;
    char *across = two + PAGE_SIZE - 3;

    if (second != two + PAGE_SIZE)
        bail("the two pages do not follow each other");
    ktap_plan(11);
    ok_fault(probe_store(across, word), NO_FAULT, "both writable");
    ok_value(*second, (char)(word >> 24), "its upper part lies in the second page");
    ok_result(pte_protect(second, PTE_RO), 0, "the second read-only");
    ok_fault(probe_store(across, 0), PF(PF_P | PF_W), "a store");
    ok_value(last_fault()->cr2, second, "CR2: the second page");
    ok_value(*(uint8_t *)across, 0x88, "the first page is as it was");
    ok_fault(probe_load(across, &value), NO_FAULT, "a load is allowed");
    ok_value(value, word, "and right");
    ok_result(pte_set(second, 0), 0, "the second absent");
    ok_fault(probe_load(across, &value), PF(0), "a load");
    ok_value(last_fault()->cr2, second, "CR2: the second page");
    return 0;
}
