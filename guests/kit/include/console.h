/*
 * Text on the domain's console, through console_io (the first domain's goes to the serial line).
 * Lines are collected and written when they end or reach 256 characters.
 */

#ifndef COWBIRD_CONSOLE_H
#define COWBIRD_CONSOLE_H

#include <stdarg.h>
#include <stddef.h>

/*
 * %d %i %u %x %X %o %c %s %p %%, with l, ll, z, h, hh; width (or *), precision (strings), 0 and -.
 * The kit's own: %pe prints the result of a hypercall, errors by name: printf("%pe", ERR(result)).
 */
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int vprintf(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
int snprintf(char *buffer, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int vsnprintf(char *buffer, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* For numbers of 64 bits, at either width: printf("%" PRIx64, entry). */
#ifdef __x86_64__
#define PRId64 "ld"
#define PRIu64 "lu"
#define PRIx64 "lx"
#else
#define PRId64 "lld"
#define PRIu64 "llu"
#define PRIx64 "llx"
#endif

#define ERR(result) ((void *)(long)(result))

int puts(const char *line);
int putchar(int character);

/* Writes out what has not ended with a newline yet. */
void console_flush(void);

#endif
