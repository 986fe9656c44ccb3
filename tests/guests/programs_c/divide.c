// cowbird: description = division of 64-bit numbers, which the kit does itself for 32-bit guests
// cowbird: environments = pv64, pv32, xen

#include "cowbird.h"

/* Known to no optimiser. */
static volatile uint64_t numbers[] = {
    0, 1, 2, 3, 7, 10, 0xffffffff, 0x100000000, 0x100000001, 0x123456789abcdef0,
    0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001, 0xfffffffffffffffe,
    0xffffffffffffffff,
};

int main(void)
{
    unsigned int wrong = 0, wrong_signed = 0;

    ktap_plan(5);
    for (unsigned int i = 0; i < ARRAY_SIZE(numbers); i++) {
        for (unsigned int j = 1; j < ARRAY_SIZE(numbers); j++) {
            uint64_t a = numbers[i], b = numbers[j];
            uint64_t quotient = a / b, rest = a % b;
            int64_t sa = (int64_t)a, sb = (int64_t)b;

            wrong += quotient * b + rest != a || rest >= b;
            if (sb == -1)
                continue; /* the lowest number has no quotient then */
            int64_t squotient = sa / sb, srest = sa % sb;

            wrong_signed += squotient * sb + srest != sa || (srest && (srest < 0) != (sa < 0));
            wrong_signed += (srest < 0 ? -srest : srest) >= (sb < 0 ? -(uint64_t)sb : (uint64_t)sb);
        }
    }
    ok_value(wrong, 0, "unsigned quotients and remainders");
    ok_value(wrong_signed, 0, "signed ones");
    ok_value(numbers[9] / numbers[5], 0x123456789abcdef0 / 10, "an example");
    ok_value((int64_t)numbers[14] / (int64_t)numbers[2], 0, "-1 / 2");
    ok_value((uint64_t)((int64_t)numbers[13] % (int64_t)numbers[3]), 0xfffffffffffffffe, "-2 % 3");
    return 0;
}
