/*
 * Verdicts as KTAP lines (docs.kernel.org/dev-tools/ktap). A check that fails prints `not ok` and
 * the program goes on; crashes are left for real crashes.
 *
 * Every ok_*() returns whether it passed and takes a printf format for its name. On failure the
 * value got and the value wanted follow in a `#` line, with file and line.
 */

#ifndef COWBIRD_KTAP_H
#define COWBIRD_KTAP_H

#include <stdbool.h>
#include <stdint.h>

#include "traps.h"

#define KTAP_PRINTF(n) __attribute__((format(printf, n, (n) + 1)))

/* The head: `count` checks will follow. Without it the plan is printed at the end. */
void ktap_plan(unsigned int count);

/* The whole program does not apply here: prints `1..0 # SKIP reason` and powers off. */
void skip_all(const char *reason, ...) __attribute__((noreturn)) KTAP_PRINTF(1);

/* One check that cannot be made here; counts as passed. */
void skip(const char *reason, const char *name, ...) KTAP_PRINTF(2);

/* Nothing more makes sense: prints `Bail out! ...` and powers off. */
void bail(const char *reason, ...) __attribute__((noreturn)) KTAP_PRINTF(1);

/* A line for the reader, after `# `. */
void diag(const char *format, ...) KTAP_PRINTF(1);

/* A condition. */
#define ok(condition, ...) ktap_ok(__FILE__, __LINE__, #condition, !!(condition), __VA_ARGS__)

/* Numbers and addresses of any width, printed in hexadecimal and decimal. */
#define ok_value(got, want, ...)                                                               \
    ktap_value(__FILE__, __LINE__, #got, KTAP_NUMBER(got), KTAP_NUMBER(want), __VA_ARGS__)

/* As 64 bits; an address of 32 is not to be taken for a negative number. */
#define KTAP_LONG(number) (sizeof((number) + 0) <= sizeof(long))
#define KTAP_NUMBER(number)                                                                    \
    (KTAP_LONG(number)                                                                         \
         ? (uint64_t)(unsigned long)__builtin_choose_expr(KTAP_LONG(number), (number), 0)      \
         : (uint64_t)__builtin_choose_expr(KTAP_LONG(number), 0, (number)))

/* Results of hypercalls, printed by name: ok_result(call(), -EINVAL, "..."). */
#define ok_result(got, want, ...)                                                              \
    ktap_result(__FILE__, __LINE__, #got, (long)(got), (long)(want), __VA_ARGS__)

/* Faults: ok_fault(probe_write(va), PF(PF_P | PF_W), "..."), or NO_FAULT. */
#define ok_fault(got, want, ...)                                                               \
    ktap_fault(__FILE__, __LINE__, #got, (got), (want), __VA_ARGS__)

/* Bytes in memory. */
#define ok_bytes(got, want, length, ...)                                                       \
    ktap_bytes(__FILE__, __LINE__, #got, (got), (want), (length), __VA_ARGS__)

/* How many checks failed so far. */
unsigned int ktap_failures(void);

/* --- what the macros call --- */
bool ktap_ok(const char *file, int line, const char *what, bool passed, const char *name, ...)
    KTAP_PRINTF(5);
bool ktap_value(const char *file, int line, const char *what, uint64_t got, uint64_t want,
                const char *name, ...) KTAP_PRINTF(6);
bool ktap_result(const char *file, int line, const char *what, long got, long want,
                 const char *name, ...) KTAP_PRINTF(6);
bool ktap_fault(const char *file, int line, const char *what, fault_t got, fault_t want,
                const char *name, ...) KTAP_PRINTF(6);
bool ktap_bytes(const char *file, int line, const char *what, const void *got, const void *want,
                unsigned long length, const char *name, ...) KTAP_PRINTF(7);

/* Called by the kit when main() has returned. */
void ktap_end(void);

#endif
