"""``make_ro_and_share`` and its batch: the calls that this project adds to the ABI.

The rules of sharing itself are in ``hypervisor.sharing``; here are the arguments and errnos.

Source: design.md section 4; flags as in ``update_va_mapping`` (xen.h, UVMF_*).
"""

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from emu.paging import PTE_AVL
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA, is_canonical
from hypervisor.abi import Errno, Hypercall
from hypervisor.domain import Domain
from hypervisor.frames import VALIDATED, PageType
from hypervisor.hypercalls.mmu import check_flush, flush_as_asked
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_BATCH: Final = 1 << 16
"""Requests that one call may name; more is -E2BIG."""
_REQUEST: Final = np.dtype([("ptr", "<u8"), ("status", "<i4"), ("pad", "<u4")])
_CHUNK: Final = PAGE_SIZE // _REQUEST.itemsize
_WORK_PER_SHARE: Final = 4
_EINVAL: Final = -int(Errno.EINVAL)


@hypercall(Hypercall.make_ro_and_share, 3)
def make_ro_and_share(hv: "Hypervisor", domain: Domain, va: int, avl: int, flags: int) -> int:
    """Share the page mapped at ``va``; 0 entered, 1 merged, or a negative errno."""
    if va & PAGE_MASK or not is_canonical(va) or avl & ~PTE_AVL:
        return hv.sharing.refuse_argument(domain)
    found = hv.paging.find_l1(domain, va)
    if found is None:
        return hv.sharing.refuse_argument(domain)
    table, index, only = found
    check_flush(hv, domain, flags)  # before anything changes
    answer = hv.sharing.share(domain, table, index, avl)
    if answer >= 0:
        coherence = hv.machine.coherence
        coherence.wrote(table)
        if only:
            coherence.flush_page(VA(va))
        else:
            coherence.flush()
        flush_as_asked(hv, domain, VA(va), flags)
    return answer


@hypercall(Hypercall.make_ro_and_share_batch, 4)
def make_ro_and_share_batch(
    hv: "Hypervisor", domain: Domain, reqs: int, count: int, done: int, avl: int
) -> int:
    """Share what ``count`` requests at ``reqs`` name; the number of requests that failed.

    ``count`` is an unsigned int: its upper half is ignored, as the ABI says. ``*done`` counts what
    was dealt with even if the array turns out not to be accessible half-way.
    """
    count &= 0xFFFF_FFFF
    if avl & ~PTE_AVL:
        return _EINVAL
    if count > MAX_BATCH:
        return -int(Errno.E2BIG)
    hv.guest.write(domain, done, struct.pack("<I", 0))
    failed = 0
    dealt_with = 0
    try:
        while dealt_with < count:
            part = min(_CHUNK, count - dealt_with)
            at = reqs + dealt_with * _REQUEST.itemsize
            requests = np.frombuffer(
                bytearray(hv.guest.read(domain, at, part * _REQUEST.itemsize)), _REQUEST
            )
            # Before anything is shared: a status that cannot be written would be lost.
            hv.guest.write(domain, at, requests.tobytes())
            statuses = share_all(hv, domain, requests["ptr"].tolist(), avl)
            failed += sum(status < 0 for status in statuses)
            requests["status"] = statuses
            dealt_with += part
            hv.guest.write(domain, at, requests.tobytes())
    finally:
        hv.spend(_WORK_PER_SHARE * dealt_with)
        hv.machine.coherence.flush()
        hv.guest.write(domain, done, struct.pack("<I", dealt_with))
    return failed


def share_all(hv: "Hypervisor", domain: Domain, pointers: list[int], avl: int) -> list[int]:
    """Share the entries at the machine addresses ``pointers``; a status for each."""
    share = hv.sharing.share
    statuses = []
    table = -1
    holder = domain
    for pointer in pointers:
        mfn = pointer >> PAGE_SHIFT
        if mfn != table:
            found = _holder_of_l1(hv, domain, mfn)
            if found is not None:
                # Sharing never changes what an L1 table is: looked at once for a run of entries.
                table, holder = mfn, found
                hv.machine.coherence.wrote(MFN(mfn))
        if pointer & 7 or mfn != table:
            statuses.append(hv.sharing.refuse_argument(domain))
        else:
            statuses.append(share(holder, MFN(table), (pointer & PAGE_MASK) >> 3, avl))
    return statuses


def _holder_of_l1(hv: "Hypervisor", domain: Domain, mfn: int) -> Domain | None:
    """Whose L1 table the frame is, if it is the caller's or a domain's that it manages."""
    frames = hv.frames
    if mfn >= frames.total or frames.type[mfn] != PageType.L1:
        return None
    if not frames.flags[mfn] & VALIDATED:
        return None
    owner = frames.owner[mfn]
    if owner == domain.id:
        return domain
    return hv.domains.get(owner) if owner in domain.targets else None
