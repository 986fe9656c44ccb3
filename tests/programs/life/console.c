// cowbird: description = console_io: what it takes, what it refuses, long lines, control characters
// cowbird: environments = pv64, pv32, xen
/* xen.h, CONSOLEIO_*. Lines that begin with # are for the reader and no verdict. */

#include "cowbird.h"

static char line[700];

int main(void)
{
    ktap_plan(9);
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, 0, NULL), 0, "nothing at all");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, 10, (char *)0x5000), -EFAULT, "text that is not there");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, 10, (char *)MACH2PHYS_VIRT_START), -EFAULT,
              "text in Xen's range");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_read, 0x80000000U, line), -E2BIG,
              "more to read than the result could say");
    ok_result(HYPERVISOR_console_io(7, 1, line), -ENOSYS, "an unknown command");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_read, sizeof(line), line), 0, "no input: 0 bytes");
    memset(line, '.', sizeof(line));
    memcpy(line, "\n# ", 3);
    line[sizeof(line) - 1] = '\n';
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, sizeof(line), line), 0, "a long line");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, 7, "# \x01\x7f\r\t\n"), 0, "control characters");
    ok_result(HYPERVISOR_console_io(CONSOLEIO_write, 6, "# \xff\xfe.\n"), 0, "bytes that are no text");
    return 0;
}
