// cowbird: description = memory_op: the memory map, the M2P's frames, what the toolstack alone may ask
/*
 * The first domain of the real Xen has no memory map of its own but the machine's; others have one
 * entry, or what the toolstack gave them.
 *
 * Source: memory.h; xen/arch/x86/mm.c (arch_memory_op), xen/arch/x86/x86_64/mm.c.
 */
#include "cowbird.h"

struct e820entry {
    uint64_t addr;
    uint64_t size;
    uint32_t type;
} __attribute__((packed));

static struct e820entry entries[128];
static xen_pfn_t frames[64];

struct xen_machphys_list {
    unsigned int max_extents;
    xen_pfn_t *extent_start;
    unsigned int nr_extents;
};

static long map(unsigned int command, unsigned int *count, void *where)
{
    struct xen_memory_map order = {.nr_entries = *count, .buffer = (unsigned long)where};
    long answer = HYPERVISOR_memory_op(command, &order);

    *count = order.nr_entries;
    return answer;
}

int main(void)
{
    struct xen_machphys_list list = {64, frames, 77};
    unsigned int count = 128;

    ktap_plan(15);
    if (is_privileged()) {
        ok_result(map(XENMEM_memory_map, &count, entries), -ENOSYS, "the first domain has no map");
        skip("as above", "entries");
        skip("as above", "the first");
        skip("as above", "its type");
        ok_result(map(XENMEM_machine_memory_map, &count, entries), 0, "but the machine's");
        ok(count > 1 && count < 128, "of some entries");
        ok(entries[0].addr == 0 && entries[0].type == 1, "from 0 on");
    } else {
        ok_result(map(XENMEM_memory_map, &count, entries), 0, "the memory map");
        ok_value(count, 1, "has one entry");
        ok_value(entries[0].addr, 0, "from 0 on");
        ok_value(entries[0].type, 1, "of RAM");
        ok_result(map(XENMEM_machine_memory_map, &count, entries), -EPERM, "not the machine's");
        skip("as above", "entries");
        skip("as above", "the first");
    }
    ok_result(HYPERVISOR_memory_op(XENMEM_memory_map, (void *)0x5000), -EFAULT,
              "an argument that is not there");
    ok_result(HYPERVISOR_memory_op(XENMEM_machphys_mfn_list, &list), 0, "frames of the M2P");
    ok(list.nr_extents >= 1 && list.nr_extents <= 64, "some");
    ok(frames[0] != 0, "the first");
    list.max_extents = 0;
    ok_result(HYPERVISOR_memory_op(XENMEM_machphys_mfn_list, &list), 0, "none of them");
    ok_value(list.nr_extents, 0, "are told");
    list.max_extents = 1;
    list.extent_start = (void *)0x5000;
    ok_result(HYPERVISOR_memory_op(XENMEM_machphys_mfn_list, &list), -EFAULT, "to nowhere");
    ok_result(HYPERVISOR_memory_op(63, &list), -ENOSYS, "no such command");
    return 0;
}
