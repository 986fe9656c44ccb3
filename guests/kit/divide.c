/*
 * 32 bits: division of 64-bit numbers, which gcc calls by these names. It is in libgcc, which may
 * not be there for 32 bits.
 */

#ifdef __i386__

#include <stdint.h>

uint64_t __udivmoddi4(uint64_t dividend, uint64_t divisor, uint64_t *remainder);
uint64_t __udivdi3(uint64_t dividend, uint64_t divisor);
uint64_t __umoddi3(uint64_t dividend, uint64_t divisor);
int64_t __divdi3(int64_t dividend, int64_t divisor);
int64_t __moddi3(int64_t dividend, int64_t divisor);

/* Bit by bit, unless the divisor has 32 bits: then two divisions of the CPU do. */
uint64_t __udivmoddi4(uint64_t dividend, uint64_t divisor, uint64_t *remainder)
{
    uint64_t quotient = 0, rest = 0;

    if (!(divisor >> 32)) {
        uint32_t high = (uint32_t)(dividend >> 32), low = (uint32_t)dividend, by = (uint32_t)divisor;
        uint32_t upper = high / by; /* divides by zero as the C program asked for it */

        high %= by;
        __asm__("divl %2" : "+a"(low), "+d"(high) : "rm"(by) : "cc");
        quotient = (uint64_t)upper << 32 | low;
        rest = high;
    } else {
        for (int bit = 63; bit >= 0; bit--) {
            uint64_t carry = rest >> 63;

            rest = rest << 1 | (dividend >> bit & 1);
            if (carry || rest >= divisor) {
                rest -= divisor;
                quotient |= UINT64_C(1) << bit;
            }
        }
    }
    if (remainder)
        *remainder = rest;
    return quotient;
}

uint64_t __udivdi3(uint64_t dividend, uint64_t divisor)
{
    return __udivmoddi4(dividend, divisor, 0);
}

uint64_t __umoddi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t rest;

    __udivmoddi4(dividend, divisor, &rest);
    return rest;
}

static uint64_t size_of(int64_t number)
{
    return number < 0 ? -(uint64_t)number : (uint64_t)number;
}

int64_t __divdi3(int64_t dividend, int64_t divisor)
{
    uint64_t quotient = __udivdi3(size_of(dividend), size_of(divisor));

    return (int64_t)((dividend < 0) != (divisor < 0) ? -quotient : quotient);
}

int64_t __moddi3(int64_t dividend, int64_t divisor)
{
    uint64_t rest = __umoddi3(size_of(dividend), size_of(divisor));

    return (int64_t)(dividend < 0 ? -rest : rest);
}

#endif
