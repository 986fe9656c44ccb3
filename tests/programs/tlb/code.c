// cowbird: description = code at a remapped address: what runs is what is mapped, not what was
// cowbird: environments = pv64, pv32, xen
/*
 * Instructions are fetched through the TLB like data. Code written through another mapping, copied
 * by hypercall or mapped anew runs as it now is.
 *
 * Source: Intel SDM 3A, 8.1.3 and 4.10.4.
 */
#include "cowbird.h"

static char *const at = (char *)AWAY;

/* mov eax, value; ret */
static void write_code(char *page, uint32_t value)
{
    page[0] = (char)0xb8;
    memcpy(page + 1, &value, 4);
    page[5] = (char)0xc3;
}

static unsigned int run(void)
{
    unsigned int (*volatile code)(void) = (unsigned int (*)(void))at;

    return code();
}

int main(void)
{
    char *a = page_alloc(), *b = page_alloc();

    ktap_plan(9);
    write_code(a, 1);
    write_code(b, 2);
    ok_result(pte_map(at, make_pte(va_mfn(a), PTE_RO)), 0, "code is mapped");
    ok_value(run(), 1, "it runs");
    write_code(a, 3);
    ok_value(run(), 3, "changed through another mapping, it runs as changed");
    ok_result(pte_set(at, make_pte(va_mfn(b), PTE_RO)), 0, "another frame");
    ok_value(run(), 2, "its code runs");
    ok_result(mmuext(MMUEXT_COPY_PAGE, va_mfn(b), va_mfn(a)), 0, "Xen copies the first on to it");
    ok_value(run(), 3, "the copy runs");
    ok_result(pte_set(at, make_pte(va_mfn(a), PTE_RO)), 0, "back");
    ok_value(run(), 3, "the first one's code");
    return 0;
}
