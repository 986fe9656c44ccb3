/* KTAP lines. */

#include "internal.h"

static unsigned int planned, checks, failures;

static void head(void)
{
    static bool printed;

    if (!printed)
        printf("KTAP version 1\n");
    printed = true;
}

void ktap_plan(unsigned int count)
{
    head();
    planned = count;
    printf("1..%u\n", count);
}

unsigned int ktap_failures(void)
{
    return failures;
}

void ktap_end(void)
{
    if (!planned && checks)
        printf("1..%u\n", checks);
    else if (planned != checks)
        diag("%u checks were planned, %u were made", planned, checks);
    console_flush();
}

void skip_all(const char *reason, ...)
{
    va_list args;

    head();
    printf("1..0 # SKIP ");
    va_start(args, reason);
    vprintf(reason, args);
    va_end(args);
    printf("\n");
    shutdown(SHUTDOWN_poweroff);
}

void skip(const char *reason, const char *name, ...)
{
    va_list args;

    head();
    printf("ok %u - ", ++checks);
    va_start(args, name);
    vprintf(name, args);
    va_end(args);
    printf(" # SKIP %s\n", reason);
}

void bail(const char *reason, ...)
{
    va_list args;

    console_flush();
    head();
    printf("Bail out! ");
    va_start(args, reason);
    vprintf(reason, args);
    va_end(args);
    printf("\n");
    shutdown(SHUTDOWN_poweroff);
}

void diag(const char *format, ...)
{
    va_list args;

    printf("# ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

/* The line itself; on failure, where. The caller adds the values. */
static bool verdict(const char *file, int line, const char *what, bool passed, const char *name,
                    va_list args)
{
    const char *slash;

    head();
    checks++;
    if (!passed)
        failures++;
    printf("%sok %u - ", passed ? "" : "not ", checks);
    vprintf(name, args);
    printf("\n");
    if (!passed && file) {
        while ((slash = strchr(file, '/')))
            file = slash + 1;
        diag("%s:%d: %s", file, line, what);
    }
    return passed;
}

void ktap_failed(const char *name, ...)
{
    va_list args;

    va_start(args, name);
    verdict(NULL, 0, NULL, false, name, args);
    va_end(args);
}

#define VERDICT(passed)                                                                        \
    do {                                                                                       \
        va_list args;                                                                          \
                                                                                               \
        va_start(args, name);                                                                  \
        verdict(file, line, what, (passed), name, args);                                       \
        va_end(args);                                                                          \
    } while (0)

bool ktap_ok(const char *file, int line, const char *what, bool passed, const char *name, ...)
{
    VERDICT(passed);
    return passed;
}

bool ktap_value(const char *file, int line, const char *what, uint64_t got, uint64_t want,
                const char *name, ...)
{
    VERDICT(got == want);
    if (got != want)
        diag("got %#" PRIx64 " (%" PRId64 "), wanted %#" PRIx64 " (%" PRId64 ")", got, (int64_t)got,
             want, (int64_t)want);
    return got == want;
}

bool ktap_result(const char *file, int line, const char *what, long got, long want,
                 const char *name, ...)
{
    VERDICT(got == want);
    if (got != want)
        diag("got %pe, wanted %pe", ERR(got), ERR(want));
    return got == want;
}

static void print_fault(fault_t fault)
{
    if (fault == NO_FAULT)
        printf("no fault");
    else
        printf("%s (vector %d) with error code %#x", trap_name((unsigned int)fault_vector(fault)),
               fault_vector(fault), fault_error(fault));
}

bool ktap_fault(const char *file, int line, const char *what, fault_t got, fault_t want,
                const char *name, ...)
{
    VERDICT(got == want);
    if (got != want) {
        printf("# got ");
        print_fault(got);
        if (got != NO_FAULT)
            printf(" at %#lx, cr2 %#lx", last_fault()->rip, last_fault()->cr2);
        printf(", wanted ");
        print_fault(want);
        printf("\n");
    }
    return got == want;
}

bool ktap_bytes(const char *file, int line, const char *what, const void *got, const void *want,
                unsigned long length, const char *name, ...)
{
    const uint8_t *a = got, *b = want;
    unsigned long i = 0;

    while (i < length && a[i] == b[i])
        i++;
    VERDICT(i == length);
    if (i != length)
        diag("byte %lu of %lu is %#x, wanted %#x", i, length, a[i], b[i]);
    return i == length;
}
