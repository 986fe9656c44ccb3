// cowbird: description = a program that does not apply says so: 1..0 # SKIP
// cowbird: expected = SKIP

#include "cowbird.h"

int main(void)
{
    skip_all("to show how");
}
