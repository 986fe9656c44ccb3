/* Memory and text. gcc itself calls the first four. */

#ifndef COWBIRD_STRING_H
#define COWBIRD_STRING_H

#include <stddef.h>

void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int byte, size_t length);
int memcmp(const void *a, const void *b, size_t length);

size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t length);
char *strchr(const char *text, int character);
unsigned long strtoul(const char *text, char **end, int base);

#endif
