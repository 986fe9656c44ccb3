"""Structures of the hypercalls for event channels, devices, grants and versions.

See ``record`` for how they are declared, ``args`` for the rest.

Source: the header named in each declaration, under xen/.
"""

from typing import Annotated

from hypervisor.abi.record import (
    I16,
    U8,
    U16,
    U32,
    U64,
    Domid,
    Ints,
    Port,
    Ptr,
    Record,
    RecordUnion,
    Ulong,
    record,
)

# --- event channels (event_channel.h) ---


@record("evtchn_alloc_unbound", "event_channel.h")
class EvtchnAllocUnbound(Record):
    """``port`` is the result."""

    dom: Domid
    remote_dom: Domid
    port: Port


@record("evtchn_bind_interdomain", "event_channel.h")
class EvtchnBindInterdomain(Record):
    """``local_port`` is the result."""

    remote_dom: Domid
    remote_port: Port
    local_port: Port


@record("evtchn_bind_virq", "event_channel.h")
class EvtchnBindVirq(Record):
    """``port`` is the result."""

    virq: U32  # Virq
    vcpu: U32
    port: Port


@record("evtchn_bind_pirq", "event_channel.h")
class EvtchnBindPirq(Record):
    """``port`` is the result."""

    pirq: U32
    flags: U32
    port: Port


@record("evtchn_bind_ipi", "event_channel.h")
class EvtchnBindIpi(Record):
    """``port`` is the result."""

    vcpu: U32
    port: Port


@record("evtchn_close", "event_channel.h")
class EvtchnClose(Record):
    """Argument of EVTCHNOP_close."""

    port: Port


@record("evtchn_send", "event_channel.h")
class EvtchnSend(Record):
    """Argument of EVTCHNOP_send."""

    port: Port


@record("", "event_channel.h")
class EvtchnStatusUnbound(Record):
    """``evtchn_status.u.unbound``."""

    dom: Domid


@record("", "event_channel.h")
class EvtchnStatusInterdomain(Record):
    """``evtchn_status.u.interdomain``."""

    dom: Domid
    port: Port


@record("", "event_channel.h")
class EvtchnStatusU(RecordUnion):
    """``evtchn_status.u``."""

    unbound: EvtchnStatusUnbound
    interdomain: EvtchnStatusInterdomain
    pirq: U32
    virq: U32


@record("evtchn_status", "event_channel.h")
class EvtchnStatus(Record):
    """``dom`` and ``port`` ask, the rest answers."""

    dom: Domid
    port: Port
    status: U32  # EvtchnStat
    vcpu: U32
    u: EvtchnStatusU


@record("evtchn_bind_vcpu", "event_channel.h")
class EvtchnBindVcpu(Record):
    """Argument of EVTCHNOP_bind_vcpu."""

    port: Port
    vcpu: U32


@record("evtchn_unmask", "event_channel.h")
class EvtchnUnmask(Record):
    """Argument of EVTCHNOP_unmask."""

    port: Port


@record("evtchn_reset", "event_channel.h")
class EvtchnReset(Record):
    """Argument of EVTCHNOP_reset."""

    dom: Domid


@record("evtchn_init_control", "event_channel.h")
class EvtchnInitControl(Record):
    """Argument of EVTCHNOP_init_control (FIFO channels)."""

    control_gfn: U64
    offset: U32
    vcpu: U32
    link_bits: U8
    _pad: Annotated[Ints, 7, U8]


# --- physical devices (physdev.h) ---


@record("physdev_set_iopl", "physdev.h")
class PhysdevSetIopl(Record):
    """Argument of PHYSDEVOP_set_iopl."""

    iopl: U32


@record("physdev_set_iobitmap", "physdev.h")
class PhysdevSetIobitmap(Record):
    """Argument of PHYSDEVOP_set_iobitmap."""

    bitmap: Ptr
    nr_ports: U32


@record("physdev_eoi", "physdev.h")
class PhysdevEoi(Record):
    """Argument of PHYSDEVOP_eoi."""

    irq: U32


@record("physdev_irq_status_query", "physdev.h")
class PhysdevIrqStatusQuery(Record):
    """Argument of PHYSDEVOP_irq_status_query; ``flags`` is the result."""

    irq: U32
    flags: U32


# --- grant tables (grant_table.h) ---


@record("gnttab_map_grant_ref", "grant_table.h")
class GnttabMapGrantRef(Record):
    """``status``, ``handle`` and ``dev_bus_addr`` are results."""

    host_addr: U64
    flags: U32  # GntMap
    ref: U32
    dom: Domid
    status: I16  # GntSt
    handle: U32
    dev_bus_addr: U64


@record("gnttab_unmap_grant_ref", "grant_table.h")
class GnttabUnmapGrantRef(Record):
    """``status`` is the result."""

    host_addr: U64
    dev_bus_addr: U64
    handle: U32
    status: I16


@record("gnttab_setup_table", "grant_table.h")
class GnttabSetupTable(Record):
    """``status`` is the result; the frames' MFNs go to ``frame_list``."""

    dom: Domid
    nr_frames: U32
    status: I16
    frame_list: Ptr


@record("gnttab_transfer", "grant_table.h")
class GnttabTransfer(Record):
    """``status`` is the result."""

    mfn: Ulong
    domid: Domid
    ref: U32
    status: I16


@record("gnttab_unmap_and_replace", "grant_table.h")
class GnttabUnmapAndReplace(Record):
    """``status`` is the result; the entry that maps ``new_addr`` moves to ``host_addr``."""

    host_addr: U64
    new_addr: U64
    handle: U32
    status: I16


@record("gnttab_swap_grant_ref", "grant_table.h")
class GnttabSwapGrantRef(Record):
    """``status`` is the result."""

    ref_a: U32
    ref_b: U32
    status: I16


@record("gnttab_get_status_frames", "grant_table.h")
class GnttabGetStatusFrames(Record):
    """``status`` is the result; the frames' MFNs go to ``frame_list``."""

    nr_frames: U32
    dom: Domid
    status: I16
    frame_list: Ptr


@record("", "grant_table.h")
class GnttabCacheFlushA(RecordUnion):
    """``gnttab_cache_flush.a``."""

    dev_bus_addr: U64
    ref: U32


@record("gnttab_cache_flush", "grant_table.h")
class GnttabCacheFlush(Record):
    """``offset`` and ``length`` in bytes; ``op``: 1 clean, 2 invalidate."""

    a: GnttabCacheFlushA
    offset: U16
    length: U16
    op: U32


@record("", "grant_table.h")
class GnttabCopyPtrU(RecordUnion):
    """``gnttab_copy_ptr.u``."""

    ref: U32
    gmfn: Ulong


@record("gnttab_copy_ptr", "grant_table.h")
class GnttabCopyPtr(Record):
    """One end of a copy; ``offset`` in bytes."""

    u: GnttabCopyPtrU
    domid: Domid
    offset: U16


@record("gnttab_copy", "grant_table.h")
class GnttabCopy(Record):
    """``status`` is the result; ``len`` in bytes."""

    source: GnttabCopyPtr
    dest: GnttabCopyPtr
    len: U16
    flags: U16  # GntCopy
    status: I16


@record("gnttab_query_size", "grant_table.h")
class GnttabQuerySize(Record):
    """All but ``dom`` are results."""

    dom: Domid
    nr_frames: U32
    max_nr_frames: U32
    status: I16


@record("gnttab_set_version", "grant_table.h")
class GnttabSetVersion(Record):
    """Version wanted, then version in use."""

    version: U32


@record("gnttab_get_version", "grant_table.h")
class GnttabGetVersion(Record):
    """``version`` is the result."""

    dom: Domid
    pad: U16
    version: U32


# --- version (version.h) ---


@record("xen_compile_info", "version.h")
class CompileInfo(Record):
    """Result of XENVER_compile_info: NUL-terminated strings."""

    compiler: Annotated[Ints, 64, U8]
    compile_by: Annotated[Ints, 16, U8]
    compile_domain: Annotated[Ints, 32, U8]
    compile_date: Annotated[Ints, 32, U8]


@record("xen_platform_parameters", "version.h")
class PlatformParameters(Record):
    """Result of XENVER_platform_parameters: start of the hypervisor's range."""

    virt_start: Ulong


@record("xen_feature_info", "version.h")
class FeatureInfo(Record):
    """``submap_idx`` asks, ``submap`` answers."""

    submap_idx: U32
    submap: U32
