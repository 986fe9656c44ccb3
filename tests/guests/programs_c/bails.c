// cowbird: description = main() returns 3, and a check fails
// cowbird: expected = FAIL

#include "cowbird.h"

int main(void)
{
    ok_value(6 * 7, 54, "what %d times nine is", 6);
    ok_result(-EINVAL, 0, "a result");
    ok_fault(probe_read((void *)0x1000), NO_FAULT, "a fault");
    ok_bytes("abc", "abd", 3, "bytes");
    return 3;
}
