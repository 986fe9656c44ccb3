/* Printing: one formatter into a sink, which is the console's line buffer or a caller's buffer. */

#include "internal.h"

#define LINE 256

static char line[LINE];
static unsigned int used;

struct sink {
    char *buffer; /* NULL: the console */
    size_t size;
    size_t length;
};

void console_flush(void)
{
    unsigned int count = used;

    used = 0;
    if (count)
        HYPERVISOR_console_io(CONSOLEIO_write, count, line);
}

int putchar(int character)
{
    line[used++] = (char)character;
    if (character == '\n' || used == LINE)
        console_flush();
    return character;
}

int puts(const char *text)
{
    while (*text)
        putchar(*text++);
    putchar('\n');
    return 0;
}

static void emit(struct sink *sink, char character)
{
    if (!sink->buffer)
        putchar(character);
    else if (sink->length + 1 < sink->size)
        sink->buffer[sink->length] = character;
    sink->length++;
}

static void emit_text(struct sink *sink, const char *text, size_t length, int width, bool left)
{
    size_t room = width > 0 ? (size_t)width : 0;

    for (size_t i = length; !left && i < room; i++)
        emit(sink, ' ');
    for (size_t i = 0; i < length; i++)
        emit(sink, text[i]);
    for (size_t i = length; left && i < room; i++)
        emit(sink, ' ');
}

static void emit_number(struct sink *sink, uint64_t value, unsigned int base, bool upper,
                        const char *prefix, int width, bool left, bool zeros)
{
    char digits[24];
    char text[64];
    size_t count = 0, length = 0;

    do {
        unsigned int digit = (unsigned int)(value % base);

        digits[count++] = (char)(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
        value /= base;
    } while (value);
    while (*prefix)
        text[length++] = *prefix++;
    while (zeros && !left && length + count < (size_t)(width > 0 ? width : 0) && length < 36)
        text[length++] = '0';
    while (count)
        text[length++] = digits[--count];
    emit_text(sink, text, length, width, left);
}

/* What a hypercall answered: -EINVAL by name, everything else as a number. */
static void emit_result(struct sink *sink, int64_t result, int width, bool left)
{
    const char *name = result < 0 ? errno_name(result) : NULL;
    char text[24] = "-";

    if (name) {
        memcpy(text + 1, name, strlen(name));
        emit_text(sink, text, strlen(name) + 1, width, left);
    } else {
        emit_number(sink, result < 0 ? -(uint64_t)result : (uint64_t)result, 10, false,
                    result < 0 ? "-" : "", width, left, false);
    }
}

static uint64_t argument(va_list *args, int longs, bool is_signed)
{
    if (longs > 1)
        return va_arg(*args, uint64_t);
    if (longs > 0 && is_signed)
        return (uint64_t)va_arg(*args, long);
    if (longs > 0)
        return va_arg(*args, unsigned long);
    if (!is_signed) {
        unsigned int value = va_arg(*args, unsigned int);

        return longs == -2 ? (uint8_t)value : longs == -1 ? (uint16_t)value : value;
    }
    int value = va_arg(*args, int);

    return (uint64_t)(longs == -2 ? (int8_t)value : longs == -1 ? (int16_t)value : value);
}

static void format_into(struct sink *sink, const char *format, va_list *args)
{
    for (; *format; format++) {
        bool left = false, zeros = false, sharp = false, plus = false;
        int width = 0, precision = -1, longs = 0;

        if (*format != '%') {
            emit(sink, *format);
            continue;
        }
        for (format++;; format++) {
            if (*format == '-')
                left = true;
            else if (*format == '0')
                zeros = true;
            else if (*format == '#')
                sharp = true;
            else if (*format == '+')
                plus = true;
            else
                break;
        }
        if (*format == '*') {
            width = va_arg(*args, int);
            format++;
        }
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';
        if (*format == '.') {
            precision = 0;
            format++;
            if (*format == '*') {
                precision = va_arg(*args, int);
                format++;
            }
            for (; *format >= '0' && *format <= '9'; format++)
                precision = precision * 10 + *format - '0';
        }
        for (;; format++) {
            if (*format == 'l' || *format == 'z' || *format == 't')
                longs++;
            else if (*format == 'j')
                longs = 2;
            else if (*format == 'h')
                longs = longs < 0 ? -2 : -1;
            else
                break;
        }
        switch (*format) {
        case 'd':
        case 'i': {
            int64_t value = (int64_t)argument(args, longs, true);
            uint64_t size = value < 0 ? -(uint64_t)value : (uint64_t)value;

            emit_number(sink, size, 10, false, value < 0 ? "-" : plus ? "+" : "", width, left,
                        zeros);
            break;
        }
        case 'u':
            emit_number(sink, argument(args, longs, false), 10, false, "", width, left, zeros);
            break;
        case 'o':
            emit_number(sink, argument(args, longs, false), 8, false, sharp ? "0" : "", width,
                        left, zeros);
            break;
        case 'x':
        case 'X':
            emit_number(sink, argument(args, longs, false), 16, *format == 'X',
                        sharp ? "0x" : "", width, left, zeros);
            break;
        case 'p': {
            unsigned long value = va_arg(*args, unsigned long);

            if (format[1] == 'e') {
                format++;
                emit_result(sink, (long)value, width, left);
            } else {
                emit_number(sink, value, 16, false, "0x", width, left, zeros);
            }
            break;
        }
        case 'c': {
            char character = (char)va_arg(*args, int);

            emit_text(sink, &character, 1, width, left);
            break;
        }
        case 's': {
            const char *text = va_arg(*args, const char *);
            size_t length = 0;

            if (!text)
                text = "(null)";
            while ((precision < 0 || length < (size_t)precision) && text[length])
                length++;
            emit_text(sink, text, length, width, left);
            break;
        }
        case 0:
            return;
        default:
            if (*format != '%')
                emit(sink, '%');
            emit(sink, *format);
        }
    }
}

int vprintf(const char *format, va_list args)
{
    struct sink sink = {0};
    va_list copy;

    va_copy(copy, args);
    format_into(&sink, format, &copy);
    va_end(copy);
    return (int)sink.length;
}

int printf(const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vprintf(format, args);
    va_end(args);
    return length;
}

int vsnprintf(char *buffer, size_t size, const char *format, va_list args)
{
    char nothing[1];
    struct sink sink = {.buffer = size ? buffer : nothing, .size = size};
    va_list copy;

    va_copy(copy, args);
    format_into(&sink, format, &copy);
    va_end(copy);
    if (size)
        buffer[sink.length < size ? sink.length : size - 1] = 0;
    return (int)sink.length;
}

int snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(buffer, size, format, args);
    va_end(args);
    return length;
}

const char *errno_name(long error)
{
    switch (error < 0 ? -error : error) {
#define CASE(error)                                                                            \
    case error:                                                                                \
        return #error
    CASE(EPERM);
    CASE(ENOENT);
    CASE(ESRCH);
    CASE(EIO);
    CASE(ENXIO);
    CASE(E2BIG);
    CASE(EBADF);
    CASE(EAGAIN);
    CASE(ENOMEM);
    CASE(EACCES);
    CASE(EFAULT);
    CASE(EBUSY);
    CASE(EEXIST);
    CASE(EXDEV);
    CASE(ENODEV);
    CASE(EINVAL);
    CASE(ENOSPC);
    CASE(EROFS);
    CASE(ERANGE);
    CASE(ENOSYS);
    CASE(EOVERFLOW);
    CASE(EOPNOTSUPP);
    default:
        return NULL;
    }
}
