"""``grant_table_op``: the calls of grant tables. What they mean is in ``grants``.

Each takes an array of requests; a request that fails has its status in it and does not stop the
others. Only a request that cannot be read, or whose status cannot be written, ends the call, with
-EFAULT. ``transfer`` refuses every request.

Source: xen/grant_table.h; order of checks and errnos are those of Xen 4.17.
"""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import (
    DomId,
    Errno,
    GntCopy,
    GntMap,
    GntSt,
    GnttabCacheFlush,
    GnttabCopy,
    GnttabCopyPtr,
    GnttabGetStatusFrames,
    GnttabGetVersion,
    GnttabMapGrantRef,
    GnttabOp,
    GnttabQuerySize,
    GnttabSetupTable,
    GnttabSetVersion,
    GnttabSwapGrantRef,
    GnttabTransfer,
    GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
    Hypercall,
    field_size,
    layout,
    offset_of,
    read,
    size_of,
    to_bytes,
)
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault, Preempted
from hypervisor.frames import PageType
from hypervisor.granttable import MAX_GRANT_FRAMES, MAX_VERSION
from hypervisor.hypercalls.mmu import foreign
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_COMMAND: Final = 0xFFF
"""Bits of the command; those above carry a continuation of ``cache_flush``."""
_AT_ONCE: Final = 256
"""Requests that are dealt with before the rest waits for the next slice."""
_WORK_PER_REQUEST: Final = 8
_WORK_AT_ONCE: Final = 1 << 13
"""Work by requests that take more than that, after which the rest waits too."""
_WORK_PER_SWITCH: Final = 64
_WORK_PER_FRAME: Final = 4
"""What a switch of versions costs, and for each frame of the table."""
_CLEAN: Final = 1
_INVALIDATE: Final = 2
_EINVAL: Final = -int(Errno.EINVAL)
_EFAULT: Final = -int(Errno.EFAULT)
_EPERM: Final = -int(Errno.EPERM)
_ENOSYS: Final = -int(Errno.ENOSYS)
_ESRCH: Final = -int(Errno.ESRCH)
_PERMISSION: Final = int(GntSt.permission_denied)


# -- arguments ---------------------------------------------------------------------------------


def _fetch(hv: "Hypervisor", domain: Domain, record: Any, at: int) -> Any:
    """The request at ``at``, as the caller's width lays it out."""
    kind = layout(record, 64 if domain.width == 64 else 32)
    return read(kind, hv.guest.read(domain, at, size_of(kind)))


def _store(hv: "Hypervisor", domain: Domain, request: Any, at: int, name: str = "") -> None:
    """Give a request back, or only its field ``name``."""
    raw = to_bytes(request)
    if name:
        start = offset_of(type(request), name)
        raw, at = raw[start : start + field_size(type(request), name)], at + start
    hv.guest.write(domain, at, raw)


def _subject(hv: "Hypervisor", domain: Domain, domid: int) -> Domain | int:
    """The domain whose table is asked about, or a status."""
    found = foreign(hv, domain, domid)
    if isinstance(found, int):
        return _PERMISSION if found == _EPERM else int(GntSt.bad_domain)
    return found


def _other(hv: "Hypervisor", domid: int) -> Domain | None:
    """The domain of that very number, if it lives."""
    found = hv.domains.get(domid)
    return found if found is not None and found.exit is None else None


# -- the table itself --------------------------------------------------------------------------


def _setup_table(hv: "Hypervisor", domain: Domain, at: int, count: int) -> int:
    if count != 1:
        return _EINVAL
    op = _fetch(hv, domain, GnttabSetupTable, at)
    if not hv.guest.possible(domain, op.frame_list):
        return _EFAULT
    subject = _subject(hv, domain, op.dom)
    if isinstance(subject, int):
        op.status = subject
    else:
        table = hv.grants.table(subject)
        if op.nr_frames > MAX_GRANT_FRAMES or not table.grow(op.nr_frames):
            op.status = GntSt.general_error
        else:
            number = "<Q" if domain.width == 64 else "<I"
            frames = table.frames[: op.nr_frames]
            op.status = _list_frames(hv, domain, op.frame_list, frames, number)
    _store(hv, domain, op, at, "status")
    return 0


def _list_frames(hv: "Hypervisor", domain: Domain, at: int, frames: list[MFN], layout: str) -> int:
    """Write frame numbers to a guest's list; a status."""
    number, status = struct.Struct(layout), GntSt.okay
    for i, mfn in enumerate(frames):
        try:
            hv.guest.write(domain, at + i * number.size, number.pack(mfn))
        except GuestFault:
            status = GntSt.bad_virt_addr
    return int(status)


def _query_size(hv: "Hypervisor", domain: Domain, at: int, count: int) -> int:
    if count != 1:
        return _EINVAL
    op = _fetch(hv, domain, GnttabQuerySize, at)
    subject = _subject(hv, domain, op.dom)
    if isinstance(subject, int):
        op.status = subject
    else:
        op.nr_frames = max(1, len(hv.grants.table(subject).frames))
        op.max_nr_frames = MAX_GRANT_FRAMES
        op.status = GntSt.okay
    _store(hv, domain, op, at)
    return 0


def _set_version(hv: "Hypervisor", domain: Domain, at: int, _count: int) -> int:
    op = _fetch(hv, domain, GnttabSetVersion, at)
    known = 1 <= op.version <= MAX_VERSION
    answer = hv.grants.set_version(domain, op.version) if known else _EINVAL
    table = hv.grants.table(domain)
    hv.spend(_WORK_PER_SWITCH + _WORK_PER_FRAME * len(table.frames))
    op.version = table.version
    _store(hv, domain, op, at)
    return answer


def _get_version(hv: "Hypervisor", domain: Domain, at: int, _count: int) -> int:
    op = _fetch(hv, domain, GnttabGetVersion, at)
    subject = foreign(hv, domain, op.dom)
    if isinstance(subject, int):
        return subject
    op.version = hv.grants.table(subject).version
    _store(hv, domain, op, at, "version")
    return 0


def _get_status_frames(hv: "Hypervisor", domain: Domain, at: int, count: int) -> int:
    if count != 1:
        return _EINVAL
    op = _fetch(hv, domain, GnttabGetStatusFrames, at)
    subject = _subject(hv, domain, op.dom)
    if isinstance(subject, int):
        op.status = subject
    else:
        frames = hv.grants.table(subject).status_frames
        op.status = GntSt.general_error
        if op.nr_frames <= len(frames):
            op.status = _list_frames(hv, domain, op.frame_list, frames[: op.nr_frames], "<Q")
    _store(hv, domain, op, at, "status")
    return 0


# -- one request -------------------------------------------------------------------------------


def _map(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    if not op.flags & (GntMap.device_map | GntMap.host_map):
        op.status = GntSt.bad_gntref
        return
    owner = _other(hv, op.dom)
    if owner is None:
        op.status = GntSt.bad_domain
        return
    status, handle, address = hv.grants.map_ref(domain, owner, op.ref, op.flags, op.host_addr)
    op.status = status
    if status == GntSt.okay:
        op.handle, op.dev_bus_addr = handle, address


def _unmap(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    op.status = hv.grants.unmap(domain, op.handle, op.host_addr, op.dev_bus_addr)


def _unmap_and_replace(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    op.status = hv.grants.unmap(domain, op.handle, op.host_addr, replacement=op.new_addr)


def _transfer(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    frames = hv.frames
    if not frames.exists(op.mfn) or frames.owner[op.mfn] != domain.id:
        op.status = GntSt.bad_page
    elif _other(hv, op.domid) is None:
        op.status = GntSt.bad_domain
    else:
        op.status = _PERMISSION


def _swap(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    op.status = hv.grants.swap(domain, op.ref_a, op.ref_b)


def _copy(hv: "Hypervisor", domain: Domain, op: Any) -> None:
    keys: list[int] = []
    try:
        op.status = _copy_held(hv, domain, op, keys)
    finally:
        for key in keys:
            hv.grants.release(key)


def _copy_held(hv: "Hypervisor", domain: Domain, op: Any, keys: list[int]) -> int:
    owners = []
    for end, by_ref in ((op.source, GntCopy.source_gref), (op.dest, GntCopy.dest_gref)):
        if end.domid != DomId.SELF and not op.flags & by_ref:
            return _PERMISSION
        owner = domain if end.domid == DomId.SELF else _other(hv, end.domid)
        if owner is None:
            return int(GntSt.bad_domain)
        owners.append(owner)
    frames, allowed = list[int](), list[tuple[int, int]]()
    for i, (end, owner) in enumerate(zip((op.source, op.dest), owners, strict=True)):
        by_ref = op.flags & (GntCopy.dest_gref if i else GntCopy.source_gref)
        found = _end(hv, domain, owner, end, bool(by_ref), bool(i), keys)
        if found < 0:
            return found
        frames.append(found)
        allowed.append(hv.grants.part(keys[-1]) if by_ref else (0, PAGE_SIZE))
    if op.source.offset + op.len > PAGE_SIZE or op.dest.offset + op.len > PAGE_SIZE:
        return int(GntSt.bad_copy_arg)
    for end, (start, length) in zip((op.source, op.dest), allowed, strict=True):
        if end.offset < start or end.offset + op.len > start + length:
            return int(GntSt.general_error)
    data = hv.machine.memory.bytes
    source = (frames[0] << PAGE_SHIFT) + op.source.offset
    target = (frames[1] << PAGE_SHIFT) + op.dest.offset
    data[target : target + op.len] = bytes(data[source : source + op.len])
    hv.machine.coherence.wrote(MFN(frames[1]))
    return int(GntSt.okay)


def _end(
    hv: "Hypervisor",
    domain: Domain,
    owner: Domain,
    end: GnttabCopyPtr,
    by_ref: bool,
    write: bool,
    keys: list[int],
) -> int:
    """The frame at one end of a copy, or a status; a hold on it goes into ``keys``."""
    if by_ref:
        status, key = hv.grants.hold(owner, end.u.ref, domain.id, readonly=not write)
        if status:
            return status
        keys.append(key)
        return hv.grants.held(key)
    frames = hv.frames
    mfn = end.u.gmfn
    if not frames.exists(mfn) or frames.owner[mfn] != owner.id:
        return int(GntSt.bad_page)
    if write and frames.type_count[mfn] and frames.type[mfn] != PageType.WRITABLE:
        return int(GntSt.general_error)
    return mfn


def _cache_flush(hv: "Hypervisor", domain: Domain, op: Any) -> int:
    """0 or an errno: this request has no status, and a bad one ends the call."""
    if (
        op.offset >= PAGE_SIZE
        or op.offset + op.length > PAGE_SIZE
        or op.op & ~(_CLEAN | _INVALIDATE)
    ):
        return _EINVAL
    if not op.length or not op.op:
        return 0
    frames = hv.frames
    mfn = op.a.dev_bus_addr >> PAGE_SHIFT
    if not frames.exists(mfn):
        return _EINVAL
    owner = frames.owner[mfn]
    if owner not in hv.domains:
        return _EPERM
    if owner != domain.id and not hv.grants.uses(domain, mfn):
        return _EINVAL
    return 0 if op.op & _CLEAN else -int(Errno.EOPNOTSUPP)


# -- the hypercall -----------------------------------------------------------------------------

Request = Callable[["Hypervisor", Domain, Any], int | None]
Query = Callable[["Hypervisor", Domain, int, int], int]

_QUERIES: Final[dict[int, Query]] = {
    GnttabOp.setup_table: _setup_table,
    GnttabOp.query_size: _query_size,
    GnttabOp.set_version: _set_version,
    GnttabOp.get_version: _get_version,
    GnttabOp.get_status_frames: _get_status_frames,
}

# Command: structure, what deals with one, and which field is given back ("" for all of it).
_BATCHES: Final[dict[int, tuple[Any, Request, str | None]]] = {
    GnttabOp.map_grant_ref: (GnttabMapGrantRef, _map, ""),
    GnttabOp.unmap_grant_ref: (GnttabUnmapGrantRef, _unmap, "status"),
    GnttabOp.unmap_and_replace: (GnttabUnmapAndReplace, _unmap_and_replace, "status"),
    GnttabOp.transfer: (GnttabTransfer, _transfer, "status"),
    GnttabOp.copy: (GnttabCopy, _copy, "status"),
    GnttabOp.swap_grant_ref: (GnttabSwapGrantRef, _swap, "status"),
    GnttabOp.cache_flush: (GnttabCacheFlush, _cache_flush, None),
}


@hypercall(Hypercall.grant_table_op, 3)
def grant_table_op(hv: "Hypervisor", domain: Domain, command: int, at: int, count: int) -> int:
    """Deal with ``count`` requests at ``at``.

    Raises:
        Preempted: it was enough for one slice.
    """
    command &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    if count >> 31 or (command & ~_COMMAND and command & _COMMAND != GnttabOp.cache_flush):
        return _EINVAL
    command &= _COMMAND
    query = _QUERIES.get(command)
    if query is not None:
        return query(hv, domain, at, count)
    batch = _BATCHES.get(command)
    if batch is None:
        return _ENOSYS
    if not hv.guest.possible(domain, at):
        return _EFAULT
    record, deal_with, back = batch
    size = size_of(layout(record, 64 if domain.width == 64 else 32))
    now = min(count, _AT_ONCE)
    hv.spend(now * _WORK_PER_REQUEST)
    enough = hv.work + _WORK_AT_ONCE
    for i in range(now):
        op = _fetch(hv, domain, record, at + i * size)
        answer = deal_with(hv, domain, op)
        if answer:
            return answer
        if back is not None:
            _store(hv, domain, op, at + i * size, back)
        if hv.work > enough:
            now = i + 1
            break
    if now < count:
        raise Preempted(command, at + now * size, count - now)
    return 0
