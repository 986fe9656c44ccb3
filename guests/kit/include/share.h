/*
 * What this project adds to the ABI: make_ro_and_share and its batch (design.md, section 4).
 * The numbers are from Xen's architecture-specific range (arch_6, arch_7); the real Xen answers
 * -ENOSYS to them.
 */

#ifndef COWBIRD_SHARE_H
#define COWBIRD_SHARE_H

#define __HYPERVISOR_make_ro_and_share               54
#define __HYPERVISOR_make_ro_and_share_batch         55

#ifndef __ASSEMBLER__

#include <stdint.h>

struct share_req {
    uint64_t ptr;   /* in: machine address of an L1 entry, 8-byte aligned */
    int32_t status; /* out: 0 entered, 1 merged, or a negative errno */
    uint32_t pad;
};

#endif /* !__ASSEMBLER__ */
#endif
