"""``make_ro_and_share`` and its batch: the calls that this project adds to the ABI.

The rules of sharing itself are in ``hypervisor.sharing``; here are the arguments and errnos.

Source: design.md section 4; flags as in ``update_va_mapping`` (xen.h, UVMF_*).
"""

import struct
from typing import TYPE_CHECKING, Final

from emu.paging import PTE_AVL
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA, is_canonical
from hypervisor.abi import Errno, Hypercall
from hypervisor.domain import Domain
from hypervisor.frames import VALIDATED, PageType
from hypervisor.hypercalls.mmu import flush_as_asked
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_BATCH: Final = 1 << 16
"""Requests that one call may name; more is -E2BIG."""
_REQUEST: Final = struct.Struct("<QiI")
_CHUNK: Final = PAGE_SIZE // _REQUEST.size
_STATUS_OFFSET: Final = 8
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
    answer = hv.sharing.share(domain, table, index, avl)
    if answer >= 0:
        if only:
            hv.machine.coherence.flush_page(VA(va))
        else:
            hv.machine.coherence.flush()
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
            at = reqs + dealt_with * _REQUEST.size
            raw = bytearray(hv.guest.read(domain, at, part * _REQUEST.size))
            # Before anything is shared: a status that cannot be written would be lost.
            hv.guest.write(domain, at, bytes(raw))
            share = hv.sharing.share
            for offset, (ptr, _, _) in zip(
                range(0, len(raw), _REQUEST.size), _REQUEST.iter_unpack(bytes(raw)), strict=True
            ):
                if ptr & 7 or not _is_l1_of(hv, domain, ptr >> PAGE_SHIFT):
                    status = hv.sharing.refuse_argument(domain)
                else:
                    status = share(domain, MFN(ptr >> PAGE_SHIFT), (ptr & PAGE_MASK) >> 3, avl)
                if status < 0:
                    failed += 1
                struct.pack_into("<i", raw, offset + _STATUS_OFFSET, status)
            hv.guest.write(domain, at, bytes(raw))
            dealt_with += part
    finally:
        hv.machine.coherence.flush()
        hv.guest.write(domain, done, struct.pack("<I", dealt_with))
    return failed


def _is_l1_of(hv: "Hypervisor", domain: Domain, mfn: int) -> bool:
    frames = hv.frames
    return (
        mfn < frames.total
        and frames.owner[mfn] == domain.id
        and frames.type[mfn] == PageType.L1
        and bool(frames.flags[mfn] & VALIDATED)
    )
