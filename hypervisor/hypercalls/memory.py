"""``memory_op``: how many frames a domain has, and which.

A reservation call deals with extents of 2**order frames one after the other; its result is how
many it managed, never an errno, so a call that cannot even be read manages none. A domain never
gets more than its ``max_pages``. A frame that is given back while entries still map it stays
theirs, and goes back to the heap with its last reference.

``exchange`` gives frames that nothing refers to for others of another extent size.

Source: memory.h; Xen's order of checks, as far as a guest can see it.
"""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emu.units import MFN, PAGE_SHIFT
from hypervisor.abi import (
    MACH2PHYS_NR_ENTRIES,
    MACH2PHYS_NR_ENTRIES_PAE,
    MACH2PHYS_VIRT_END,
    MACH2PHYS_VIRT_END_PAE,
    MACH2PHYS_VIRT_START,
    MACH2PHYS_VIRT_START_PAE,
    AddToPhysmap,
    DomId,
    Errno,
    Hypercall,
    MachphysMapping,
    MachphysMfnList,
    MemoryDomain,
    MemoryExchange,
    MemoryMap,
    MemoryReservation,
    RemoveFromPhysmap,
    Width,
    XenMem,
    XenMemF,
    layout,
    offset_of,
    size_of,
    to_bytes,
)
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault, OutOfFrames, Preempted
from hypervisor.frames import ALLOCATED, XEN_HEAP
from hypervisor.hypercalls.mmu import foreign
from hypervisor.hypercalls.registry import hypercall
from hypervisor.sharedinfo import SHARED

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_ORDER: Final = 9
"""Largest extent that an ordinary domain may ask for: 2 MiB."""
_COMMAND_BITS: Final = 6
_ADDRESS_BITS: Final = 0xFF
_M64: Final = (1 << 64) - 1
_PFN: Final[dict[Width, struct.Struct]] = {64: struct.Struct("<Q"), 32: struct.Struct("<I")}
_E820: Final = struct.Struct("<QQI")
_E820_RAM: Final = 1
_M2P_EXTENT: Final = 1 << (21 - PAGE_SHIFT)
"""Frames of M2P that one entry of ``machphys_mfn_list`` stands for."""
_EXTENTS_AT_ONCE: Final = 1 << 12
_WORK_AT_ONCE: Final = 1 << 14
"""Extents, and the work on them, after which a reservation goes on in the next slice."""
_LOOKED_AT_SHIFT: Final = 8
"""To look for a row of free frames in all of the machine is work for every 256 of its frames."""
_EXCHANGED_PER_CALL: Final = 1 << 12
"""Frames; more are exchanged in the next slice."""
_WORK_PER_EXCHANGE: Final = 4

_SELF: Final = int(DomId.SELF)
_RESERVATION: Final[dict[Width, struct.Struct]] = {
    64: struct.Struct("<QQIIH6x"),
    32: struct.Struct("<IIIIH2x"),
}
"""``MemoryReservation``, unpacked at once: the call of every copy-on-write."""
if any(s.size != size_of(layout(MemoryReservation, w)) for w, s in _RESERVATION.items()):
    raise TypeError("xen_memory_reservation is not what _RESERVATION says")

_EPERM: Final = -int(Errno.EPERM)
_ESRCH: Final = -int(Errno.ESRCH)
_EINVAL: Final = -int(Errno.EINVAL)
_ENOENT: Final = -int(Errno.ENOENT)
_ENOMEM: Final = -int(Errno.ENOMEM)
_EFAULT: Final = -int(Errno.EFAULT)
_EACCES: Final = -int(Errno.EACCES)
_ENOSYS: Final = -int(Errno.ENOSYS)


@hypercall(Hypercall.memory_op, 2)
def memory_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Answer one XENMEM_*; the bits above the command are an extent to begin with."""
    start = (command & 0xFFFF_FFFF) >> _COMMAND_BITS
    command &= (1 << _COMMAND_BITS) - 1
    if command in _RESERVATIONS:
        return _reservation(hv, domain, command, start, argument)
    if start:
        return _ENOSYS
    operation = _OPERATIONS.get(command)
    return _ENOSYS if operation is None else operation(hv, domain, argument)


# -- reservations ------------------------------------------------------------------------------


class _Request:
    """A readable and permitted reservation: whose, which extents, and where they may lie."""

    __slots__ = ("count", "limit", "list", "on_demand", "order", "owner", "pfn", "possible")

    def __init__(
        self,
        hv: "Hypervisor",
        owner: Domain,
        pfn: struct.Struct,
        extents: int,
        count: int,
        order: int,
        flags: int,
    ) -> None:
        self.owner = owner
        self.pfn = pfn
        """How the caller lays out a number in the list."""
        self.list = extents
        self.count = count
        self.order = order
        total = hv.frames.total
        self.limit = total
        """Frames from here on may not be given (the guest named a width of addresses)."""
        self.possible = True
        self.on_demand = False
        if flags:
            bits = flags & _ADDRESS_BITS
            self.possible = not bits or bits > PAGE_SHIFT or 1 << bits >= total << PAGE_SHIFT
            if PAGE_SHIFT < bits < 64:
                self.limit = min(total, 1 << (bits - PAGE_SHIFT))
            self.on_demand = bool(flags & XenMemF.populate_on_demand)

    def at(self, index: int) -> int:
        """Address of a number in the extent list."""
        return (self.list + index * self.pfn.size) & _M64


def _reservation(hv: "Hypervisor", domain: Domain, command: int, start: int, argument: int) -> int:
    reserve = _RESERVATIONS[command]
    reservation = _RESERVATION[domain.width]
    try:
        extents, count, order, flags, domid = reservation.unpack(
            hv.guest.read(domain, argument, reservation.size)
        )
    except GuestFault:
        return start
    if count > 0xFFFF_FFFF >> _COMMAND_BITS or start >= count:
        return start
    owner = domain if domid == _SELF else foreign(hv, domain, domid)
    if isinstance(owner, int) or order > MAX_ORDER:
        return start
    request = _Request(hv, owner, _PFN[domain.width], extents, count, order, flags)
    if not request.possible:
        return start
    done = start
    enough, again = hv.work + _WORK_AT_ONCE, False
    try:
        while done < count and reserve(hv, domain, request, done):
            done += 1
            if done - start >= _EXTENTS_AT_ONCE or hv.work > enough:
                again = done < count
                break
    except GuestFault:
        pass
    hv.spend((done - start) << max(0, request.order))
    if again:
        raise Preempted(command | done << _COMMAND_BITS, argument)
    return done


def _allocate(hv: "Hypervisor", owner: Domain, order: int, limit: int) -> list[MFN]:
    """The frames of a new extent, or none if there are none, or not for this domain."""
    count = 1 << order
    if owner.pages + count > owner.max_pages:
        return []
    try:
        if order == 0 and limit >= hv.frames.total:
            given = [hv.frames.allocate(owner.id)]
        else:
            hv.spend(hv.frames.total >> _LOOKED_AT_SHIFT)
            given = hv.frames.allocate_extent(order, limit, owner.id)
    except OutOfFrames:
        return []
    owner.pages += count
    return given


def _increase(hv: "Hypervisor", domain: Domain, request: _Request, index: int) -> bool:
    if request.list:
        hv.guest.translate(domain, request.at(index), write=True)
    given = _allocate(hv, request.owner, request.order, request.limit)
    if given and request.list:
        hv.guest.write(domain, request.at(index), request.pfn.pack(given[0]))
    return bool(given)


def _populate(hv: "Hypervisor", domain: Domain, request: _Request, index: int) -> bool:
    if request.on_demand:
        return False
    at = request.at(index)
    (pfn,) = request.pfn.unpack(hv.guest.read_for_update(domain, at, request.pfn.size))
    given = _allocate(hv, request.owner, request.order, request.limit)
    for i, mfn in enumerate(given):
        hv.frames.set_m2p(mfn, pfn + i)
    if given:
        hv.guest.write(domain, at, request.pfn.pack(given[0]))
    return bool(given)


def _decrease(hv: "Hypervisor", domain: Domain, request: _Request, index: int) -> bool:
    (first,) = request.pfn.unpack(hv.guest.read(domain, request.at(index), request.pfn.size))
    return all(_remove(hv, request.owner, first + i) for i in range(1 << request.order))


def _remove(hv: "Hypervisor", owner: Domain, mfn: int) -> bool:
    """Take a frame from its owner; what still refers to it, a pin too, keeps it, and counted."""
    frames = hv.frames
    if not frames.exists(mfn) or frames.owner[mfn] != owner.id:
        return False
    if not frames.flags[mfn] & ALLOCATED:
        # Given back before. The hypervisor's own pages never were the domain's to give.
        return not frames.flags[mfn] & XEN_HEAP
    frames.flags[mfn] &= ~ALLOCATED
    if frames.refs[mfn] == 0:
        hv.paging.free(MFN(mfn))
    return True


Reserve = Callable[["Hypervisor", Domain, _Request, int], bool]

_RESERVATIONS: Final[dict[int, Reserve]] = {
    XenMem.increase_reservation: _increase,
    XenMem.decrease_reservation: _decrease,
    XenMem.populate_physmap: _populate,
}
"""What to do with one extent: True if it is done."""


# -- exchange ----------------------------------------------------------------------------------


def _exchange(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    call = hv.guest.record(domain, MemoryExchange, argument)
    answer = _check_exchange(call)
    if not answer:
        owner = foreign(hv, domain, call.in_.domid)
        answer = owner if isinstance(owner, int) else _exchange_all(hv, domain, owner, call)
    done = argument + offset_of(type(call), "nr_exchanged")
    hv.guest.write(domain, done, _PFN[domain.width].pack(call.nr_exchanged))
    if not answer and call.nr_exchanged < call.in_.nr_extents:
        raise Preempted(XenMem.exchange, argument)
    return answer


def _check_exchange(call: MemoryExchange) -> int:
    given, wanted = call.in_, call.out
    if max(given.extent_order, wanted.extent_order) > MAX_ORDER:
        return _EPERM
    if (
        call.nr_exchanged > given.nr_extents
        or given.domid != wanted.domid
        or given.nr_extents > _M64 >> given.extent_order
        or wanted.nr_extents > _M64 >> wanted.extent_order
        or given.nr_extents << given.extent_order != wanted.nr_extents << wanted.extent_order
    ):
        return _EINVAL
    return 0


def _exchange_all(hv: "Hypervisor", domain: Domain, owner: Domain, call: MemoryExchange) -> int:
    """Exchange chunk after chunk; ``call.nr_exchanged`` says how far it came.

    Not all of them at once: a list may be as long as the address space, page after page of it the
    same one, in which the frames just given are those to be exchanged next.
    """
    given, wanted = call.in_, call.out
    per_chunk = 1 << max(0, wanted.extent_order - given.extent_order)
    back_per_chunk = 1 << max(0, given.extent_order - wanted.extent_order)
    first, end = call.nr_exchanged // per_chunk, given.nr_extents // per_chunk
    frames_per_chunk = per_chunk << given.extent_order
    size = _PFN[domain.width].size
    last = min(end, first + max(1, _EXCHANGED_PER_CALL // frames_per_chunk))
    hv.spend(_WORK_PER_EXCHANGE * (last - first) * frames_per_chunk)
    for chunk in range(first, last):
        call.nr_exchanged = chunk * per_chunk
        source = (given.extent_start + chunk * per_chunk * size) & _M64
        target = (wanted.extent_start + chunk * back_per_chunk * size) & _M64
        try:
            answer = _exchange_chunk(
                hv, domain, owner, call, (source, per_chunk), (target, back_per_chunk)
            )
        except GuestFault:
            answer = _EFAULT
        if answer:
            return answer
    call.nr_exchanged = last * per_chunk
    return 0


def _exchange_chunk(
    hv: "Hypervisor",
    domain: Domain,
    owner: Domain,
    call: MemoryExchange,
    source: tuple[int, int],
    target: tuple[int, int],
) -> int:
    """Frames for frames, all or nothing. ``source``, ``target``: list address and extents."""
    frames, guest = hv.frames, hv.guest
    number = _PFN[domain.width]
    raw = guest.read(domain, source[0], source[1] * number.size)
    old = [
        first + i for (first,) in number.iter_unpack(raw) for i in range(1 << call.in_.extent_order)
    ]
    if len(set(old)) != len(old):
        return _EINVAL
    for mfn in old:
        # Nothing may refer to it: the caller has unmapped it.
        mine = frames.exists(mfn) and frames.owner[mfn] == owner.id
        if not mine or not frames.flags[mfn] & ALLOCATED or frames.refs[mfn]:
            return _EINVAL
    raw = guest.read(domain, target[0], target[1] * number.size)
    guest.write(domain, target[0], raw)
    wanted = call.out
    request = _Request(
        hv,
        owner,
        number,
        wanted.extent_start,
        wanted.nr_extents,
        wanted.extent_order,
        wanted.mem_flags,
    )
    if not request.possible:
        return _ENOMEM
    new: list[list[MFN]] = []
    owner.pages -= len(old)
    for _ in range(target[1]):
        extent = _allocate(hv, owner, call.out.extent_order, request.limit)
        if not extent:
            for mfn in (mfn for given in new for mfn in given):
                frames.release(mfn)
                owner.pages -= 1
            owner.pages += len(old)
            return _ENOMEM
        new.append(extent)
    for mfn in old:
        frames.release(MFN(mfn))
    for (pfn,), extent in zip(number.iter_unpack(raw), new, strict=True):
        for i, frame in enumerate(extent):
            frames.set_m2p(frame, pfn + i)
    guest.write(domain, target[0], b"".join(number.pack(extent[0]) for extent in new))
    return 0


# -- questions ---------------------------------------------------------------------------------


def _named(hv: "Hypervisor", domain: Domain, argument: int) -> Domain | int:
    domid = hv.guest.record(domain, MemoryDomain, argument).domid
    return foreign(hv, domain, domid)


def _current(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    owner = _named(hv, domain, argument)
    return owner if isinstance(owner, int) else owner.pages


def _maximum(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    owner = _named(hv, domain, argument)
    return owner if isinstance(owner, int) else owner.max_pages


def _maximum_gpfn(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    """One less than the number of PFNs that the guest wrote into its shared_info."""
    owner = _named(hv, domain, argument)
    if isinstance(owner, int):
        return owner
    shared = SHARED[owner.width]
    at = (owner.shared_info << PAGE_SHIFT) + shared.max_pfn
    number = int.from_bytes(hv.machine.memory.bytes[at : at + shared.word], "little")
    return (number or 1) - 1


def _maximum_ram_page(hv: "Hypervisor", _domain: Domain, _argument: int) -> int:
    return hv.frames.total


def _machphys_mapping(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    answer = layout(MachphysMapping, domain.width)()
    if domain.width == 64:
        answer.v_start, answer.v_end = MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_END
        answer.max_mfn = MACH2PHYS_NR_ENTRIES - 1
    else:
        answer.v_start, answer.v_end = MACH2PHYS_VIRT_START_PAE, MACH2PHYS_VIRT_END_PAE
        answer.max_mfn = MACH2PHYS_NR_ENTRIES_PAE - 1
    hv.guest.write(domain, argument, to_bytes(answer))
    return 0


def _machphys_list(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    call = hv.guest.record(domain, MachphysMfnList, argument)
    mine = hv.frames.m2p_frames if domain.width == 64 else hv.frames.m2p32_frames
    firsts = mine[::_M2P_EXTENT][: call.max_extents]
    number = _PFN[domain.width]
    hv.guest.write(domain, call.extent_start, b"".join(number.pack(mfn) for mfn in firsts))
    call.nr_extents = len(firsts)
    hv.guest.write(domain, argument, to_bytes(call))
    return 0


def _memory_map(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    """An E820 map of one entry: all that the domain may ever have is RAM."""
    return _write_map(hv, domain, argument, domain.max_pages)


def _machine_memory_map(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    if not domain.privileged:
        return _EPERM
    return _write_map(hv, domain, argument, hv.frames.total)


def _write_map(hv: "Hypervisor", domain: Domain, argument: int, pages: int) -> int:
    call = hv.guest.record(domain, MemoryMap, argument)
    call.nr_entries = min(call.nr_entries, 1)
    if call.nr_entries:
        hv.guest.write(domain, call.buffer, _E820.pack(0, pages << PAGE_SHIFT, _E820_RAM))
    hv.guest.write(domain, argument, to_bytes(call))
    return 0


def _add_to_physmap(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    """For guests whose tables are translated; a PV guest's are not."""
    domid = hv.guest.record(domain, AddToPhysmap, argument).domid
    owner = foreign(hv, domain, domid)
    return owner if isinstance(owner, int) else _EACCES


def _remove_from_physmap(hv: "Hypervisor", domain: Domain, argument: int) -> int:
    call = hv.guest.record(domain, RemoveFromPhysmap, argument)
    owner = foreign(hv, domain, call.domid)
    if isinstance(owner, int):
        return owner
    mine = hv.frames.exists(call.gpfn) and hv.frames.owner[call.gpfn] == owner.id
    return 0 if mine else _ENOENT


def _sharing_saved(hv: "Hypervisor", domain: Domain, _argument: int) -> int:
    """How many frames sharing saves; only for a privileged caller, since it tells of others."""
    return hv.sharing.saved if domain.privileged else _EPERM


def _sharing_shared(hv: "Hypervisor", domain: Domain, _argument: int) -> int:
    return hv.frames.shared if domain.privileged else _EPERM


def _no_numa(_hv: "Hypervisor", _domain: Domain, _argument: int) -> int:
    return -int(Errno.EOPNOTSUPP)


Operation = Callable[["Hypervisor", Domain, int], int]

_OPERATIONS: Final[dict[int, Operation]] = {
    XenMem.maximum_ram_page: _maximum_ram_page,
    XenMem.current_reservation: _current,
    XenMem.maximum_reservation: _maximum,
    XenMem.machphys_mfn_list: _machphys_list,
    XenMem.add_to_physmap: _add_to_physmap,
    XenMem.memory_map: _memory_map,
    XenMem.machine_memory_map: _machine_memory_map,
    XenMem.exchange: _exchange,
    XenMem.machphys_mapping: _machphys_mapping,
    XenMem.maximum_gpfn: _maximum_gpfn,
    XenMem.remove_from_physmap: _remove_from_physmap,
    XenMem.get_sharing_freed_pages: _sharing_saved,
    XenMem.get_sharing_shared_pages: _sharing_shared,
    XenMem.get_vnumainfo: _no_numa,
}
