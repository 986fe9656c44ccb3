// cowbird: description = printf, strings, the command line, events and time of the kit
// cowbird: cmdline = flag number=0x1f word=hello empty= numbers=9

#include "cowbird.h"

static char text[128];

#define ok_text(want, ...)                                                                     \
    do {                                                                                       \
        int length = snprintf(text, sizeof(text), __VA_ARGS__);                                \
        ok(!strcmp(text, want) && length == (int)strlen(want), "%s", want);                    \
    } while (0)

static volatile unsigned int seen;

static void on_event(evtchn_port_t port)
{
    seen += port;
}

static void formats(void)
{
    ok_text("-5 7 4294967295", "%d %i %u", -5, 7, 0xffffffffU);
    ok_text("ff 0xff 00ff FF", "%x %#x %04x %X", 255, 255, 255, 255);
    ok_text("-9223372036854775808", "%ld", 1L << 63);
    ok_text("[   ab] [ab   ] [a] [c]", "[%5s] [%-5s] [%.1s] [%c]", "ab", "ab", "ab", 'c');
    ok_text("[  -3] [-3  ] [-003] [007]", "[%4d] [%-4d] [%04d] [%03d]", -3, -3, -3, 7);
    ok_text("0xffff800000000000", "%p", (void *)MACH2PHYS_VIRT_START);
    ok_text("-EINVAL 3 -4000 ENOSYS", "%pe %pe %pe %s", ERR(-EINVAL), ERR(3000 - 2997),
            ERR(-4000), errno_name(ENOSYS));
    ok_text("100%", "%d%%", 100);
    ok_text("17 -1 255", "%zu %hhd %hhu", (size_t)17, -1, 255);
    ok(snprintf(text, 4, "%s", "abcdef") == 6 && !strcmp(text, "abc"), "cut");
}

static void strings(void)
{
    char buffer[16] = "0123456789";

    memmove(buffer + 2, buffer, 6);
    ok(!strcmp(buffer, "0101234589"), "memmove upwards");
    memmove(buffer, buffer + 2, 6);
    ok(!strcmp(buffer, "0123454589"), "memmove downwards");
    memset(buffer, 'x', 11);
    ok(!strcmp(buffer + 7, "xxxx") && !buffer[11], "memset");
    ok(memcmp("abcdefghij", "abcdefghik", 10) < 0 && !memcmp("ab", "ac", 1), "memcmp");
    ok(strtoul("077", NULL, 0) == 63 && strtoul("-1z", NULL, 10) == ~0UL, "strtoul");
}

static void command_line(void)
{
    char word[4];

    ok(param_flag("flag") && !param_flag("fla") && !param_flag("word"), "flags");
    ok_value(param_number("number", 1), 31, "a number");
    ok_value(param_number("nothing", 17), 17, "a default");
    ok(param("word", word, sizeof(word)) && !strcmp(word, "hel"), "a word, cut");
    ok(param("empty", word, sizeof(word)) && !*word && !param("none", word, 4), "empty, absent");
}

static void events(void)
{
    uint64_t before = time_ns();
    long port = bind_ipi(), timer;

    ok(port > 0, "a port");
    set_event_handler((evtchn_port_t)port, on_event);
    ok_result(event_send((evtchn_port_t)port), 0, "an event");
    ok_value(seen, 0, "is masked at first");
    events_on();
    ok_value(seen, port, "and then comes");
    events_off();
    ok_result(event_close((evtchn_port_t)port), 0, "closed");

    timer = bind_virq(VIRQ_TIMER);
    ok(timer > 0, "a timer");
    HYPERVISOR_set_timer_op(time_ns() + 1000000);
    block();
    ok(time_ns() >= before + 1000000, "a millisecond has passed");
}

int main(void)
{
    ktap_plan(10 + 5 + 5 + 7 + 2);
    formats();
    strings();
    if (start_info->cmd_line[0])
        command_line();
    else
        for (int i = 0; i < 5; i++)
            skip("no command line", "command line %d", i);
    events();
    ok_result(hypercall_through_page(__HYPERVISOR_xen_version, XENVER_version, 0, 0),
              HYPERVISOR_xen_version(XENVER_version, NULL), "a call through the hypercall page");
    skip("to show it", "a check that is left out");
    return 0;
}
