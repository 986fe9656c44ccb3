"""Structures of the hypercalls for memory, scheduling and the vCPU.

See ``record`` for how they are declared and for their 32-bit twins. Every ``Ptr``, MFN and
count in them is the guest's claim. Event channels, devices and versions are in ``args_io``.

Source: the header named in each declaration, under xen/; ``ShareReq`` is ours (design.md).
"""

from typing import Annotated

from hypervisor.abi.record import (
    I32,
    U16,
    U32,
    U64,
    Both,
    Domid,
    Ints,
    Ptr,
    Record,
    RecordUnion,
    Ulong,
    record,
)

# --- memory management (xen.h, memory.h) ---


@record("mmu_update", "xen.h")
class MmuUpdateReq(Record):
    """One request of mmu_update: ``ptr`` is a machine address with the command in bits 1..0."""

    ptr: U64
    val: U64


@record("", "xen.h")
class MmuExtArg1(RecordUnion):
    """``mmuext_op.arg1``."""

    mfn: Ulong
    linear_addr: Ulong


@record("", "xen.h")
class MmuExtArg2(RecordUnion):
    """``mmuext_op.arg2``."""

    nr_ents: U32
    vcpumask: Ptr
    src_mfn: Ulong


@record("mmuext_op", "xen.h")
class MmuExtOp(Record):
    """One request of mmuext_op."""

    cmd: U32  # MmuExt
    arg1: MmuExtArg1
    arg2: MmuExtArg2


@record("multicall_entry", "xen.h")
class MulticallEntry(Record):
    """One call of a multicall; ``result`` is written back."""

    op: Ulong  # Hypercall
    result: Ulong
    args: Annotated[Ints, 6, Ulong]


@record("share_req", "cowbird")
class ShareReq(Record):
    """One request of make_ro_and_share_batch; the same at both widths but for its alignment."""

    ptr: U64  # in: machine address of an L1 entry
    status: I32  # out: 0 entered, 1 merged, or a negative errno
    pad: U32


@record("xen_memory_reservation", "memory.h")
class MemoryReservation(Record):
    """Argument of the reservation commands: ``nr_extents`` extents of 2**extent_order pages."""

    extent_start: Ptr
    nr_extents: Ulong
    extent_order: U32
    mem_flags: U32  # address bits in 7..0, node in 15..8, XenMemF
    domid: Domid


@record("xen_memory_exchange", "memory.h")
class MemoryExchange(Record):
    """Argument of XENMEM_exchange."""

    in_: MemoryReservation
    out: MemoryReservation
    nr_exchanged: Ulong


@record("xen_memory_domain", "memory.h")
class MemoryDomain(Record):
    """Argument of XENMEM_{current,maximum}_reservation and maximum_gpfn."""

    domid: Domid


@record("xen_machphys_mfn_list", "memory.h")
class MachphysMfnList(Record):
    """Argument of XENMEM_machphys_mfn_list."""

    max_extents: U32
    extent_start: Ptr
    nr_extents: U32


@record("xen_machphys_mapping", "memory.h")
class MachphysMapping(Record):
    """Result of XENMEM_machphys_mapping: linear addresses and the largest MFN."""

    v_start: Ulong
    v_end: Ulong
    max_mfn: Ulong


@record("xen_add_to_physmap", "memory.h")
class AddToPhysmap(Record):
    """Argument of XENMEM_add_to_physmap."""

    domid: Domid
    size: U16
    space: U32  # XenMapSpace
    idx: Ulong
    gpfn: Ulong


@record("xen_remove_from_physmap", "memory.h")
class RemoveFromPhysmap(Record):
    """Argument of XENMEM_remove_from_physmap."""

    domid: Domid
    gpfn: Ulong


@record("xen_memory_map", "memory.h")
class MemoryMap(Record):
    """Argument of XENMEM_memory_map: room for, then number of, E820 entries of 20 bytes."""

    nr_entries: U32
    buffer: Ptr


@record("xen_foreign_memory_map", "memory.h")
class ForeignMemoryMap(Record):
    """Argument of XENMEM_set_memory_map."""

    domid: Domid
    map: MemoryMap


# --- scheduling (sched.h, vcpu.h, callback.h, nmi.h) ---


@record("sched_shutdown", "sched.h")
class SchedShutdown(Record):
    """Argument of SCHEDOP_shutdown."""

    reason: U32  # Shutdown


@record("sched_poll", "sched.h")
class SchedPoll(Record):
    """Argument of SCHEDOP_poll; ``timeout`` is absolute system time in ns, 0 for none."""

    ports: Ptr
    nr_ports: U32
    timeout: U64


@record("sched_remote_shutdown", "sched.h")
class SchedRemoteShutdown(Record):
    """Argument of SCHEDOP_remote_shutdown."""

    domain_id: Domid
    reason: U32


@record("sched_watchdog", "sched.h")
class SchedWatchdog(Record):
    """Argument of SCHEDOP_watchdog; ``timeout`` in seconds."""

    id: U32
    timeout: U32


@record("vcpu_register_runstate_memory_area", "vcpu.h")
class VcpuRegisterRunstateMemoryArea(Record):
    """Argument of VCPUOP_register_runstate_memory_area: ``union { ptr v; uint64_t p; } addr``."""

    addr: U64


@record("vcpu_register_time_memory_area", "vcpu.h")
class VcpuRegisterTimeMemoryArea(Record):
    """Argument of VCPUOP_register_vcpu_time_memory_area."""

    addr: U64


@record("vcpu_set_periodic_timer", "vcpu.h")
class VcpuSetPeriodicTimer(Record):
    """Argument of VCPUOP_set_periodic_timer."""

    period_ns: U64


@record("vcpu_set_singleshot_timer", "vcpu.h")
class VcpuSetSingleshotTimer(Record):
    """Argument of VCPUOP_set_singleshot_timer."""

    timeout_abs_ns: U64
    flags: U32  # SshotTmr


@record("vcpu_register_vcpu_info", "vcpu.h")
class VcpuRegisterVcpuInfo(Record):
    """Argument of VCPUOP_register_vcpu_info: ``offset`` in bytes within frame ``mfn``."""

    mfn: U64
    offset: U32
    rsvd: U32


@record("vcpu_get_physid", "vcpu.h")
class VcpuGetPhysid(Record):
    """Result of VCPUOP_get_physid: APIC ID in the low half, ACPI ID in the high one."""

    phys_id: U64


@record("xen_callback", "arch-x86/xen-x86_32.h")
class XenCallback32(Record):
    """32-bit ``xen_callback_t``; the 64-bit one is a plain address."""

    cs: U32
    eip: U32


@record("callback_register", "callback.h")
class CallbackRegister(Record):
    """Argument of CALLBACKOP_register; ``address`` is an integer, in the twin XenCallback32."""

    type: U16  # CallbackType
    flags: U16  # CallbackF
    address: Annotated[int, Both(U64, XenCallback32)]


@record("callback_unregister", "callback.h")
class CallbackUnregister(Record):
    """Argument of CALLBACKOP_unregister."""

    type: U16
    _unused: U16


@record("xennmi_callback", "nmi.h")
class XennmiCallback(Record):
    """Argument of XENNMI_register_callback."""

    handler_address: Ulong
    pad: Ulong
