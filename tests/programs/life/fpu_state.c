// cowbird: description = the x87 and SSE state that a domain begins with
// cowbird: environments = pv64, pv32, xen
/* Xen: FCW_DEFAULT and MXCSR_DEFAULT; SDM volume 1, 8.1.5 (exceptions masked) and 10.2.3. */

#include "cowbird.h"

int main(void)
{
    uint16_t control = 0;
    uint32_t mxcsr = 0;
    struct { uint32_t control, status, tags, ip, cs, dp, ds; } environment;

    ktap_plan(4);
    asm volatile("fnstcw %0" : "=m"(control));
    ok_value(control, 0x37f, "x87: extended precision, all exceptions masked");
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    ok_value(mxcsr, 0x1f80, "SSE: all exceptions masked");
    asm volatile("fnstenv %0" : "=m"(environment));
    ok_value(environment.status & 0xffff, 0, "no exception pending");
    ok_value(environment.tags & 0xffff, 0xffff, "the x87 stack is empty");
    return 0;
}
