/* Memory and text. The block operations are single instructions, for speed under emulation too. */

#include <stdbool.h>
#include <stdint.h>

#include "string.h"

#ifdef __x86_64__
#define REP_MOVS "rep movsq"
#define REP_STOS "rep stosq"
#else
#define REP_MOVS "rep movsl"
#define REP_STOS "rep stosl"
#endif

void *memcpy(void *to, const void *from, size_t length)
{
    void *at = to;
    size_t rest = length & (sizeof(long) - 1);

    length /= sizeof(long);
    __asm__ volatile(REP_MOVS : "+D"(at), "+S"(from), "+c"(length) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(rest) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t length)
{
    char *last_to = (char *)to + length - 1;
    const char *last_from = (const char *)from + length - 1;

    if ((uintptr_t)to - (uintptr_t)from >= length)
        return memcpy(to, from, length);
    __asm__ volatile("std\n\trep movsb\n\tcld"
                     : "+D"(last_to), "+S"(last_from), "+c"(length)
                     :
                     : "memory", "cc");
    return to;
}

void *memset(void *to, int byte, size_t length)
{
    void *at = to;
    size_t rest = length & (sizeof(long) - 1);
    unsigned long pattern = ~0UL / 255 * (uint8_t)byte;

    length /= sizeof(long);
    __asm__ volatile(REP_STOS : "+D"(at), "+c"(length) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(pattern) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const uint8_t *x = a, *y = b;

    for (; length >= 8 && *(const uint64_t *)x == *(const uint64_t *)y; length -= 8) {
        x += 8;
        y += 8;
    }
    for (; length; length--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *text)
{
    const char *end = text;

    while (*end)
        end++;
    return (size_t)(end - text);
}

int strcmp(const char *a, const char *b)
{
    for (; *a && *a == *b; a++)
        b++;
    return (uint8_t)*a - (uint8_t)*b;
}

int strncmp(const char *a, const char *b, size_t length)
{
    for (; length && *a && *a == *b; length--, a++)
        b++;
    return length ? (uint8_t)*a - (uint8_t)*b : 0;
}

char *strchr(const char *text, int character)
{
    for (;; text++) {
        if (*text == (char)character)
            return (char *)text;
        if (!*text)
            return NULL;
    }
}

unsigned long strtoul(const char *text, char **end, int base)
{
    unsigned long value = 0;
    bool negative = *text == '-';

    if (*text == '-' || *text == '+')
        text++;
    if ((base == 0 || base == 16) && text[0] == '0' && (text[1] | 32) == 'x') {
        text += 2;
        base = 16;
    } else if (base == 0) {
        base = text[0] == '0' ? 8 : 10;
    }
    for (;; text++) {
        int digit = *text;

        if (digit >= '0' && digit <= '9')
            digit -= '0';
        else if ((digit | 32) >= 'a' && (digit | 32) <= 'z')
            digit = (digit | 32) - 'a' + 10;
        else
            break;
        if (digit >= base)
            break;
        value = value * (unsigned long)base + (unsigned long)digit;
    }
    if (end)
        *end = (char *)text;
    return negative ? -value : value;
}
