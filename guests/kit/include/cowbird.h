// The C kit: everything that a small Xen PV kernel needs, so that `gcc` alone builds one, 64-bit or
// 32-bit (PAE). With KIT the directory that holds guest.ld (`guests/kit` in the sources):
//
//   gcc @KIT/flags -I KIT/include -T KIT/guest.ld KIT/*.S KIT/*.c mytest.c -o mytest.elf
//   gcc @KIT/flags32 -I KIT/include -T KIT/guest32.ld KIT/*.S KIT/*.c mytest.c -o mytest.elf
//
/*
 * The result boots under cowbird and, as first domain, under the real Xen. A program:
 *
 *   #include "cowbird.h"
 *
 *   int main(void)
 *   {
 *       char *page = page_alloc();
 *
 *       ktap_plan(2);
 *       ok_value(pte_protect(page, PTE_RO), 0, "a page can be made read-only");
 *       ok_fault(probe_write(page), PF(PF_P | PF_W), "a write to it faults");
 *       return 0;
 *   }
 *
 * Before main() the kit sets a stack, traps, the syscall callback and shared_info up. When main()
 * returns 0 the domain powers off; another value counts as one more check that failed.
 * A trap that nobody wants prints what and where, and ends the domain with SHUTDOWN_crash.
 *
 * Kernel code runs with events masked until events_on(). There is no floating point and no heap.
 * Where the widths differ, `__x86_64__` or `__i386__` is defined, as gcc has it.
 * Nothing depends on how much memory the domain has, nor on whether it is privileged.
 */

#ifndef COWBIRD_H
#define COWBIRD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "console.h"
#include "errno.h"
#include "events.h"
#include "hypercall.h"
#include "ktap.h"
#include "paging.h"
#include "share.h"
#include "string.h"
#include "traps.h"
#include "user.h"
#include "xen.h"

/* Where the image is linked, and PFN 0 mapped: the VIRT_BASE note (the same in guest.ld). */
#ifdef __x86_64__
#define VIRT_BASE 0xffffffff80000000UL
#else
#define VIRT_BASE 0xc0000000UL
#endif

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* The structure that Xen passed at boot, and the shared page (mapped by the kit). */
extern struct start_info *start_info;
extern struct shared_info *const shared_info;

/* The test program. */
int main(void);

/* Ends the domain: SHUTDOWN_poweroff, SHUTDOWN_crash, ... Never returns. */
void shutdown(unsigned int reason) __attribute__((noreturn));

/* Prints "panic: " and the text, then SHUTDOWN_crash. */
void panic(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * The command line: words between spaces, `key=value` or a bare `flag`.
 * param() copies the value into `value` (cut at size - 1) and says whether the key is there;
 * param_number() takes decimal, 0x... and 0... numbers.
 */
bool param_flag(const char *flag);
bool param(const char *key, char *value, size_t size);
unsigned long param_number(const char *key, unsigned long fallback);

/* True if this domain may do what only the first (privileged) domain may. */
static inline bool is_privileged(void)
{
    return (start_info->flags & SIF_PRIVILEGED) != 0;
}

/* True if the hypervisor knows make_ro_and_share (the real Xen does not). */
bool have_share(void);

#endif
