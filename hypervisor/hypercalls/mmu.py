"""Page-table hypercalls: ``update_va_mapping``, ``mmu_update``, ``mmuext_op``.

They check their arguments here; what an update means is in ``hypervisor.paging``. All of them may
name another domain's frames or tables, which only a privileged caller may do, or one whose target
that domain is (``Domain.targets``: a memory manager and its group).

Source: xen.h (MMU_*, MMUEXT_*, UVMF_*, DOMID_*).
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, VA
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    DomId,
    Errno,
    Hypercall,
    MmuExt,
    MmuUpdate,
    Uvmf,
    Width,
)
from hypervisor.descriptors import MAX_LDT_ENTRIES
from hypervisor.domain import NO_FRAME, Domain
from hypervisor.errors import GuestFault, Preempted
from hypervisor.frames import FrameTable, PageType
from hypervisor.hypercalls.registry import hypercall
from hypervisor.toplevel import not_the_guests, top_level

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_UPDATE: Final = struct.Struct("<QQ")
_EXT: Final[dict[Width, struct.Struct]] = {64: struct.Struct("<I4xQQ"), 32: struct.Struct("<III")}
_DONE: Final = struct.Struct("<I")
_EINVAL: Final = -int(Errno.EINVAL)
_EPERM: Final = -int(Errno.EPERM)
_ESRCH: Final = -int(Errno.ESRCH)
_ENOSYS: Final = -int(Errno.ENOSYS)
_PREEMPTED: Final = 1 << 31
"""MMU_UPDATE_PREEMPTED: a continuation's mark in ``count``. ``*done`` then says how many of the
whole were applied before; a guest that sets it gets nothing but a wrong ``*done``."""
MAX_BATCH: Final = 1 << 20
"""Requests of one call; beyond it the caller gets -E2BIG."""
_REQUESTS_AT_ONCE: Final = 1 << 15
_TABLES_AT_ONCE: Final = 256
"""Requests applied, and tables gone through by them, before the rest waits for the next slice."""
_WORK_PER_REQUEST: Final = 2
_WORK_PER_TABLE: Final = 128
_VCPUS: Final = 1
_OWN: Final = int(DomId.SELF)
"""``mmu_update``'s last argument where nobody else is named."""
_OWNERS: Final = (DomId.IO, DomId.XEN)
"""Owners of frames that are no domains."""

# Plain integers: an IntFlag's operators run in Python, and every update comes through here.
_FLUSHTYPE: Final = int(Uvmf.FLUSHTYPE_MASK)
_TLB_FLUSH: Final = int(Uvmf.TLB_FLUSH)
_INVLPG: Final = int(Uvmf.INVLPG)
_ALL_CPUS: Final = (int(Uvmf.LOCAL), int(Uvmf.ALL))


# -- arguments ---------------------------------------------------------------------------------


def foreign(hv: "Hypervisor", domain: Domain, domid: int) -> Domain | int:
    """The domain that ``domid`` names as seen by ``domain``, or -ESRCH / -EPERM."""
    if domid in (DomId.SELF, domain.id):
        return domain
    other = hv.domains.get(domid)
    if other is None or other.exit is not None:
        return _ESRCH
    return other if domain.privileged or domid in domain.targets else _EPERM


def _page_owner(hv: "Hypervisor", domain: Domain, domid: int) -> Domain | int:
    """As ``foreign``, for the calls of this file: they do not take the caller by its number."""
    if domid == domain.id:
        return _ESRCH
    return _EPERM if domid in _OWNERS else foreign(hv, domain, domid)


def _mappable(hv: "Hypervisor", domain: Domain, domid: int) -> int:
    """Whose frames an entry may name, as their owner in the frame table; or a negative errno."""
    if domid == DomId.IO:
        return domid  # devices: no frame of this machine, but an entry without P is fine
    owner = _page_owner(hv, domain, domid)
    return owner if isinstance(owner, int) else owner.id


def _tables_of(hv: "Hypervisor", domain: Domain, field: int) -> Domain | int:
    """Whose tables ``mmu_update`` changes: the upper half of its last argument, 0 the caller's."""
    if not field:
        return domain
    return _ESRCH if field - 1 == DomId.SELF else foreign(hv, domain, field - 1)


def check_flush(hv: "Hypervisor", domain: Domain, flags: int) -> None:
    """Look at the CPU set that UVMF_* flags may point at.

    Raises:
        GuestFault: it cannot be read.
    """
    pointer = flags & ~_FLUSHTYPE
    if flags & _FLUSHTYPE and pointer not in _ALL_CPUS:
        hv.guest.read(domain, pointer, (_VCPUS + 7) // 8)


def flush_as_asked(hv: "Hypervisor", domain: Domain, va: VA, flags: int) -> int:
    """What UVMF_* asks for. There is one CPU, so which CPUs are named makes no difference.

    Returns 0, or -EFAULT if the flags hold a pointer to a CPU set that cannot be read.
    """
    kind = flags & _FLUSHTYPE
    if kind == 0:
        return 0
    check_flush(hv, domain, flags)
    if kind == _TLB_FLUSH:
        hv.machine.coherence.flush()
    elif kind == _INVLPG:
        hv.machine.coherence.flush_page(va)
    return 0


# -- update_va_mapping -------------------------------------------------------------------------


def _update_va(
    hv: "Hypervisor", domain: Domain, va: int, entry: int, flags: int, owner: int | None
) -> int:
    found = hv.paging.find_l1(domain, va)
    if found is None:
        return _EINVAL
    table, index, only = found
    page = VA(va) if only else None
    manager = None if owner is None else domain
    answer = hv.paging.update_entry(
        table, index, entry, domain, owner=owner, va=page, manager=manager
    )
    if flags and not answer:
        return flush_as_asked(hv, domain, VA(va), flags)
    return answer


@hypercall(Hypercall.update_va_mapping, 3, width=64)
def update_va_mapping(hv: "Hypervisor", domain: Domain, va: int, entry: int, flags: int) -> int:
    """Change the L1 entry that maps ``va`` in the current address space."""
    return _update_va(hv, domain, va, entry, flags, None)


@hypercall(Hypercall.update_va_mapping_otherdomain, 4, width=64)
def update_va_mapping_otherdomain(
    hv: "Hypervisor", domain: Domain, va: int, entry: int, flags: int, domid: int
) -> int:
    """The same, mapping a frame of another domain; for a privileged caller."""
    owner = _mappable(hv, domain, domid & 0xFFFF)
    if owner < 0:
        return owner
    return _update_va(hv, domain, va, entry, flags, owner)


@hypercall(Hypercall.update_va_mapping, 4, width=32)
def update_va_mapping32(
    hv: "Hypervisor", domain: Domain, va: int, low: int, high: int, flags: int
) -> int:
    """The same of a 32-bit guest: the entry in two registers."""
    return _update_va(hv, domain, va, low | high << 32, flags, None)


@hypercall(Hypercall.update_va_mapping_otherdomain, 5, width=32)
def update_va_mapping_otherdomain32(
    hv: "Hypervisor", domain: Domain, va: int, low: int, high: int, flags: int, domid: int
) -> int | None:
    """The same of a 32-bit guest, for a frame of another domain."""
    return update_va_mapping_otherdomain(hv, domain, va, low | high << 32, flags, domid)


# -- mmu_update --------------------------------------------------------------------------------


def _batch(
    hv: "Hypervisor",
    domain: Domain,
    requests: tuple[int, int, int, int],
    layout: struct.Struct,
    apply: Callable[..., int],
) -> int:
    """Apply requests of one layout, until the first that fails; ``*done``: how many succeeded.

    ``requests``: the hypercall's arguments (address, count, done, domid). A ``done`` that cannot be
    accessed is left alone and changes nothing else.

    Raises:
        Preempted: it was enough for one slice.
    """
    at, count, done, domid = requests
    count &= 0xFFFF_FFFF
    paging = hv.paging
    walked = paging.walked
    if count == 1 and not done:  # what most callers do
        answer = apply(*layout.unpack(hv.guest.read(domain, at, layout.size)))
        if paging.walked != walked:
            hv.spend((paging.walked - walked) * _WORK_PER_TABLE)
        return answer
    before = 0
    if done and count & _PREEMPTED:
        with suppress(GuestFault):
            (before,) = _DONE.unpack(hv.guest.read(domain, done, _DONE.size))
    count &= ~_PREEMPTED
    if count > MAX_BATCH:
        return -int(Errno.E2BIG)
    enough = walked + _TABLES_AT_ONCE
    answer = 0
    succeeded = 0
    try:
        for i in range(min(count, _REQUESTS_AT_ONCE)):
            answer = apply(*layout.unpack(hv.guest.read(domain, at + i * layout.size, layout.size)))
            if answer:
                break
            succeeded += 1
            if paging.walked > enough:
                break
    finally:
        hv.spend(succeeded * _WORK_PER_REQUEST + (paging.walked - walked) * _WORK_PER_TABLE)
        if done:
            with suppress(GuestFault):
                hv.guest.write(domain, done, _DONE.pack((before + succeeded) & 0xFFFF_FFFF))
    if not answer and succeeded < count:
        raise Preempted(at + succeeded * layout.size, count - succeeded | _PREEMPTED, done, domid)
    return answer


@hypercall(Hypercall.mmu_update, 4)
def mmu_update(
    hv: "Hypervisor", domain: Domain, reqs: int, count: int, done: int, domid: int
) -> int:
    """Apply ``count`` updates; stops at the first that fails. ``*done``: how many succeeded."""
    tables = _tables_of(hv, domain, domid >> 16 & 0xFFFF)
    if isinstance(tables, int):
        return tables
    frames_of = _mappable(hv, domain, domid & 0xFFFF)
    if frames_of < 0:
        return frames_of

    if tables is not domain and frames_of != tables.id and not domain.privileged:
        return _EPERM  # a manager joins nobody's memory to a third one's, nor its own
    manager = None if domid == _OWN else domain

    def apply(ptr: int, value: int) -> int:
        return _one_update(hv, tables, frames_of, ptr, value, manager)

    return _batch(hv, domain, (reqs, count, done, domid), _UPDATE, apply)


def _one_update(
    hv: "Hypervisor",
    tables: Domain,
    owner: int,
    ptr: int,
    value: int,
    manager: Domain | None = None,
) -> int:
    command = ptr & 7  # entries are 8 bytes, and so are the commands' bits
    if command > MmuUpdate.PT_UPDATE_NO_TRANSLATE:
        return _ENOSYS
    if command == MmuUpdate.MACHPHYS_UPDATE:
        mfn = ptr >> PAGE_SHIFT
        if not hv.frames.exists(mfn) or hv.frames.owner[mfn] != owner:
            return _EINVAL
        hv.frames.set_m2p(MFN(mfn), value)
        return 0
    mfn = ptr >> PAGE_SHIFT
    frames = hv.frames
    if not frames.exists(mfn) or frames.owner[mfn] != tables.id:
        return _EINVAL
    index = (ptr & PAGE_MASK) >> 3
    if frames.type_count[mfn] and frames.type[mfn] <= PageType.L4:
        if frames.type[mfn] != PageType.L1 and owner != tables.id:
            return _EINVAL
        return hv.paging.update_entry(
            MFN(mfn),
            index,
            value,
            tables,
            owner=owner,
            preserve_ad=command == MmuUpdate.PT_UPDATE_PRESERVE_AD,
            manager=manager,
        )
    if frames.type_count[mfn] and frames.type[mfn] != PageType.WRITABLE:
        return _EINVAL
    # An ordinary page of the caller's: a plain store, as Xen does it.
    hv.machine.memory.words[(mfn << PAGE_SHIFT | index << 3) >> 3] = value
    hv.machine.coherence.wrote(MFN(mfn))
    return 0


# -- mmuext_op ---------------------------------------------------------------------------------


@hypercall(Hypercall.mmuext_op, 4)
def mmuext_op(hv: "Hypervisor", domain: Domain, ops: int, count: int, done: int, domid: int) -> int:
    """Apply ``count`` extended operations; stops at the first that fails, as ``mmu_update``."""
    owner = _page_owner(hv, domain, domid & 0xFFFF)
    if isinstance(owner, int):
        return owner

    def apply(command: int, arg1: int, arg2: int) -> int:
        operation = _OPERATIONS.get(command)
        return _ENOSYS if operation is None else operation(hv, domain, owner, arg1, arg2)

    return _batch(hv, domain, (ops, count, done, domid), _EXT[domain.width], apply)


def _pin(level: int) -> "Operation":
    def pin(hv: "Hypervisor", _domain: Domain, owner: Domain, mfn: int, _arg2: int) -> int:
        if level > top_level(owner):
            return 0  # a 32-bit guest has no L4 tables: Xen does nothing and says so
        return hv.paging.pin(mfn, level, owner)

    return pin


def _unpin(hv: "Hypervisor", _domain: Domain, owner: Domain, mfn: int, _arg2: int) -> int:
    return hv.paging.unpin(mfn, owner)


def new_baseptr(hv: "Hypervisor", domain: Domain, owner: Domain, mfn: int, _arg2: int) -> int:
    """MMUEXT_NEW_BASEPTR, which is also what MOV to CR3 means. Returns 0 or a negative errno."""
    if owner is not domain:
        return _EPERM
    answer = hv.paging.get_table(mfn, top_level(domain), domain)
    if answer:
        return answer
    old = hv.paging.top.base(domain)
    if mfn != old:
        # Its pages are those that the new tables map at the LDT's address.
        hv.traps.descriptors.drop_ldt(domain)
    hv.paging.top.set_base(domain, MFN(mfn))
    hv.load_address_space(domain)
    hv.paging.put_table(old, domain)
    return 0


def _new_user_baseptr(hv: "Hypervisor", domain: Domain, owner: Domain, mfn: int, _arg2: int) -> int:
    if domain.width == 32:
        return _EINVAL  # it has one table for both modes
    if owner is not domain:
        return _EPERM
    if mfn == domain.user_table:
        return 0
    if mfn:
        answer = hv.paging.get_table(mfn, PageType.L4, domain)
        if answer:
            return answer
    old, domain.user_table = domain.user_table, MFN(mfn)
    hv.load_address_space(domain)
    if old != NO_FRAME:
        hv.paging.put_table(old, domain)
    return 0


def _flush(hv: "Hypervisor", domain: Domain, owner: Domain, _arg1: int, _arg2: int) -> int:
    if owner is not domain:
        return _EPERM
    hv.machine.coherence.flush()
    return 0


def _flush_multi(hv: "Hypervisor", domain: Domain, owner: Domain, arg1: int, mask: int) -> int:
    answer = _read_mask(hv, domain, owner, mask)
    return answer or _flush(hv, domain, owner, arg1, mask)


def _invlpg(hv: "Hypervisor", domain: Domain, owner: Domain, va: int, _arg2: int) -> int:
    if owner is not domain:
        return _EPERM
    if not HYPERVISOR_VIRT_START <= va < HYPERVISOR_VIRT_END:
        hv.machine.coherence.flush_page(VA(va))
    return 0


def _invlpg_multi(hv: "Hypervisor", domain: Domain, owner: Domain, va: int, mask: int) -> int:
    answer = _read_mask(hv, domain, owner, mask)
    return answer or _invlpg(hv, domain, owner, va, mask)


def _read_mask(hv: "Hypervisor", domain: Domain, owner: Domain, mask: int) -> int:
    if owner is not domain:
        return _EPERM
    try:
        hv.guest.read(domain, mask, (_VCPUS + 7) // 8)
    except GuestFault:
        return _EINVAL
    return 0


def _flush_cache(_hv: "Hypervisor", domain: Domain, owner: Domain, _arg1: int, _arg2: int) -> int:
    if owner is not domain:
        return _EPERM
    return 0 if domain.privileged else -int(Errno.EACCES)


def _set_ldt(hv: "Hypervisor", domain: Domain, owner: Domain, va: int, entries: int) -> int:
    if owner is not domain:
        return _EPERM
    entries &= 0xFFFF_FFFF
    if entries > MAX_LDT_ENTRIES or (entries and (va & PAGE_MASK or not_the_guests(va))):
        return _EINVAL
    hv.traps.descriptors.set_ldt(domain, VA(va), entries)
    return 0


def _own_data_page(frames: FrameTable, owner: Domain, mfn: int) -> bool:
    return (
        frames.exists(mfn)
        and frames.owner[mfn] == owner.id
        and (not frames.type_count[mfn] or frames.type[mfn] == PageType.WRITABLE)
    )


def _clear_page(hv: "Hypervisor", _domain: Domain, owner: Domain, mfn: int, _arg2: int) -> int:
    if not _own_data_page(hv.frames, owner, mfn):
        return _EINVAL
    hv.machine.memory.zero_frame(MFN(mfn))
    hv.machine.coherence.wrote(MFN(mfn))
    return 0


def _copy_page(hv: "Hypervisor", _domain: Domain, owner: Domain, mfn: int, source: int) -> int:
    frames = hv.frames
    readable = frames.exists(source) and frames.owner[source] == owner.id
    if not readable or not _own_data_page(frames, owner, mfn):
        return _EINVAL
    memory = hv.machine.memory
    memory.frame(MFN(mfn))[:] = memory.frame_bytes(MFN(source))
    hv.machine.coherence.wrote(MFN(mfn))
    return 0


def _unsupported(_hv: "Hypervisor", _domain: Domain, _owner: Domain, _arg1: int, _arg2: int) -> int:
    return -int(Errno.EOPNOTSUPP)


Operation = Callable[["Hypervisor", Domain, Domain, int, int], int]

_OPERATIONS: dict[int, Operation] = {
    MmuExt.PIN_L1_TABLE: _pin(1),
    MmuExt.PIN_L2_TABLE: _pin(2),
    MmuExt.PIN_L3_TABLE: _pin(3),
    MmuExt.PIN_L4_TABLE: _pin(4),
    MmuExt.UNPIN_TABLE: _unpin,
    MmuExt.NEW_BASEPTR: new_baseptr,
    MmuExt.NEW_USER_BASEPTR: _new_user_baseptr,
    MmuExt.TLB_FLUSH_LOCAL: _flush,
    MmuExt.INVLPG_LOCAL: _invlpg,
    MmuExt.TLB_FLUSH_MULTI: _flush_multi,
    MmuExt.INVLPG_MULTI: _invlpg_multi,
    MmuExt.TLB_FLUSH_ALL: _flush,
    MmuExt.INVLPG_ALL: _invlpg,
    MmuExt.FLUSH_CACHE: _flush_cache,
    MmuExt.FLUSH_CACHE_GLOBAL: _flush_cache,
    MmuExt.SET_LDT: _set_ldt,
    MmuExt.CLEAR_PAGE: _clear_page,
    MmuExt.COPY_PAGE: _copy_page,
    MmuExt.MARK_SUPER: _unsupported,
    MmuExt.UNMARK_SUPER: _unsupported,
}
