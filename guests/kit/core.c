/* From start.S to main() and out again; the command line. */

#include "internal.h"

struct start_info *start_info;

/* The page whose address shared_info gets mapped at; its own frame lies idle from then on. */
static char shared_page[PAGE_SIZE] __attribute__((aligned(4096), section(".bss.page_aligned")));
struct shared_info *const shared_info = (struct shared_info *)shared_page;

void kit_start(struct start_info *info, unsigned long boot_stack_top)
{
    int result;
    long error;

    start_info = info;
    paging_start(boot_stack_top);
    error = pte_set(shared_page, info->shared_info | PTE_RW);
    if (error)
        panic("shared_info cannot be mapped: %pe", ERR(error));
    shared_info->vcpu_info[0].evtchn_upcall_mask = 1;
    traps_start();
    result = main();
    if (result)
        ktap_failed("main() returned %d", result);
    ktap_end();
    shutdown(SHUTDOWN_poweroff);
}

void shutdown(unsigned int reason)
{
    struct sched_shutdown argument = {.reason = reason};

    console_flush();
    HYPERVISOR_sched_op(SCHEDOP_shutdown, &argument);
    for (;;)
        __asm__ volatile("ud2");
}

void panic(const char *format, ...)
{
    va_list args;

    console_flush();
    printf("panic: ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    shutdown(SHUTDOWN_crash);
}

bool have_share(void)
{
    return HYPERVISOR_make_ro_and_share(1, 0, 0) != -ENOSYS;
}

/* What follows `key` where it stands as a word of its own or before `=`; NULL if it does not. */
static const char *find_word(const char *key)
{
    const char *word = (const char *)start_info->cmd_line;
    const char *const end = word + MAX_GUEST_CMDLINE - 1;
    size_t length = strlen(key);

    while (word < end && *word) {
        if (!strncmp(word, key, length) &&
            (!word[length] || word[length] == ' ' || word[length] == '='))
            return word + length;
        while (word < end && *word && *word != ' ')
            word++;
        while (word < end && *word == ' ')
            word++;
    }
    return NULL;
}

bool param_flag(const char *flag)
{
    const char *rest = find_word(flag);

    return rest && *rest != '=';
}

bool param(const char *key, char *value, size_t size)
{
    const char *rest = find_word(key);
    size_t i = 0;

    if (!rest || *rest != '=' || !size)
        return false;
    for (rest++; *rest && *rest != ' ' && i + 1 < size; i++)
        value[i] = *rest++;
    value[i] = 0;
    return true;
}

unsigned long param_number(const char *key, unsigned long fallback)
{
    const char *rest = find_word(key);

    return rest && *rest == '=' ? strtoul(rest + 1, NULL, 0) : fallback;
}
