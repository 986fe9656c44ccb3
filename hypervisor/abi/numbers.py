"""Every number of the Xen public ABI that a PV guest on x86 can pass or be handed.

One enumeration per family, so that a trace can print ``MMUEXT_PIN_L4_TABLE`` and not ``3``.
Members carry Xen's own names without the family's prefix, in Xen's own case; a name that is a
Python keyword takes a trailing underscore (``SchedOp.yield_``). ``PREFIX`` maps each family to
its prefix in the headers: ``xen_name`` prints with it and the test compares through it.

Operation codes are ``IntEnum`` and bit sets are ``IntFlag``; both are plain integers to anyone
who compares or packs them. A number that came from a guest is a claim: look it up with
``name_of`` for printing, never with ``Family(number)``, which raises ``ValueError``.

Source: xen/xen.h, xen/memory.h, xen/sched.h, xen/event_channel.h, xen/vcpu.h, xen/version.h,
xen/features.h, xen/callback.h, xen/nmi.h; ``devices`` has the families of device interfaces
(interface version 4.14 and later). Checked by tests/hypervisor/test_abi.py.
"""

from enum import IntEnum, IntFlag

from hypervisor.abi.devices import GntCopy, GntMap, GntSt, GnttabOp, Gtf, PhysdevOp, XenStore


class Hypercall(IntEnum):
    """Hypercall numbers: RAX (EAX) at entry (xen/xen.h, ``__HYPERVISOR_*``)."""

    set_trap_table = 0
    mmu_update = 1
    set_gdt = 2
    stack_switch = 3
    set_callbacks = 4
    fpu_taskswitch = 5
    sched_op_compat = 6
    platform_op = 7
    set_debugreg = 8
    get_debugreg = 9
    update_descriptor = 10
    memory_op = 12
    multicall = 13
    update_va_mapping = 14
    set_timer_op = 15
    event_channel_op_compat = 16
    xen_version = 17
    console_io = 18
    physdev_op_compat = 19
    grant_table_op = 20
    vm_assist = 21
    update_va_mapping_otherdomain = 22
    iret = 23
    vcpu_op = 24
    set_segment_base = 25
    mmuext_op = 26
    xsm_op = 27
    nmi_op = 28
    sched_op = 29
    callback_op = 30
    xenoprof_op = 31
    event_channel_op = 32
    physdev_op = 33
    hvm_op = 34
    sysctl = 35
    domctl = 36
    kexec_op = 37
    tmem_op = 38
    argo_op = 39
    xenpmu_op = 40
    dm_op = 41
    hypfs_op = 42
    arch_0 = 48
    arch_1 = 49
    arch_2 = 50
    arch_3 = 51
    arch_4 = 52
    arch_5 = 53
    make_ro_and_share = 54
    """Ours, in Xen's ``arch_6``: share one page (design.md, section 4)."""
    make_ro_and_share_batch = 55
    """Ours, in Xen's ``arch_7``: share the pages of an array of entries."""


class MmuUpdate(IntEnum):
    """Command in bits 1..0 of ``mmu_update.ptr`` (xen/xen.h)."""

    NORMAL_PT_UPDATE = 0
    MACHPHYS_UPDATE = 1
    PT_UPDATE_PRESERVE_AD = 2
    PT_UPDATE_NO_TRANSLATE = 3


class MmuExt(IntEnum):
    """``mmuext_op.cmd`` (xen/xen.h)."""

    PIN_L1_TABLE = 0
    PIN_L2_TABLE = 1
    PIN_L3_TABLE = 2
    PIN_L4_TABLE = 3
    UNPIN_TABLE = 4
    NEW_BASEPTR = 5
    TLB_FLUSH_LOCAL = 6
    INVLPG_LOCAL = 7
    TLB_FLUSH_MULTI = 8
    INVLPG_MULTI = 9
    TLB_FLUSH_ALL = 10
    INVLPG_ALL = 11
    FLUSH_CACHE = 12
    SET_LDT = 13
    NEW_USER_BASEPTR = 15
    CLEAR_PAGE = 16
    COPY_PAGE = 17
    FLUSH_CACHE_GLOBAL = 18
    MARK_SUPER = 19
    UNMARK_SUPER = 20


class Uvmf(IntFlag):
    """Flags of update_va_mapping: which flush (bits 1..0), which CPUs (bit 2 and up; xen/xen.h).

    With ``MULTI`` (0) and bits 63..3 not zero, those bits are the address of a CPU bitmap.
    """

    NONE = 0
    TLB_FLUSH = 1
    INVLPG = 2
    FLUSHTYPE_MASK = 3
    MULTI = 0
    LOCAL = 0
    ALL = 4


class XenMem(IntEnum):
    """Commands of memory_op (xen/memory.h)."""

    increase_reservation = 0
    decrease_reservation = 1
    maximum_ram_page = 2
    current_reservation = 3
    maximum_reservation = 4
    machphys_mfn_list = 5
    populate_physmap = 6
    add_to_physmap = 7
    memory_map = 9
    machine_memory_map = 10
    exchange = 11
    machphys_mapping = 12
    set_memory_map = 13
    maximum_gpfn = 14
    remove_from_physmap = 15
    set_pod_target = 16
    get_pod_target = 17
    get_sharing_freed_pages = 18
    get_sharing_shared_pages = 19
    paging_op = 20
    access_op = 21
    sharing_op = 22
    add_to_physmap_batch = 23
    claim_pages = 24
    machphys_compat_mfn_list = 25
    get_vnumainfo = 26
    reserved_device_memory_map = 27
    acquire_resource = 28


class XenMemF(IntFlag):
    """``memory_reservation.mem_flags`` above the address width in bits 7..0 (xen/memory.h)."""

    populate_on_demand = 1 << 16
    exact_node_request = 1 << 17
    vnode = 1 << 18


class XenMapSpace(IntEnum):
    """``add_to_physmap.space`` (xen/memory.h)."""

    shared_info = 0
    grant_table = 1
    gmfn = 2
    gmfn_range = 3
    gmfn_foreign = 4
    dev_mmio = 5


class SchedOp(IntEnum):
    """Commands of sched_op (xen/sched.h)."""

    yield_ = 0
    block = 1
    shutdown = 2
    poll = 3
    remote_shutdown = 4
    shutdown_code = 5
    watchdog = 6
    pin_override = 7


class Shutdown(IntEnum):
    """``sched_shutdown.reason`` (xen/sched.h)."""

    poweroff = 0
    reboot = 1
    suspend = 2
    crash = 3
    watchdog = 4
    soft_reset = 5


class EvtchnOp(IntEnum):
    """Commands of event_channel_op (xen/event_channel.h)."""

    bind_interdomain = 0
    bind_virq = 1
    bind_pirq = 2
    close = 3
    send = 4
    status = 5
    alloc_unbound = 6
    bind_ipi = 7
    bind_vcpu = 8
    unmask = 9
    reset = 10
    init_control = 11
    expand_array = 12
    set_priority = 13


class EvtchnStat(IntEnum):
    """``evtchn_status.status`` (xen/event_channel.h)."""

    closed = 0
    unbound = 1
    interdomain = 2
    pirq = 3
    virq = 4
    ipi = 5


class Virq(IntEnum):
    """Virtual interrupts (xen/xen.h)."""

    TIMER = 0
    DEBUG = 1
    CONSOLE = 2
    DOM_EXC = 3
    TBUF = 4
    DEBUGGER = 6
    XENOPROF = 7
    CON_RING = 8
    PCPU_STATE = 9
    MEM_EVENT = 10
    ARGO = 11
    ENOMEM = 12
    XENPMU = 13
    ARCH_0 = 16
    ARCH_1 = 17
    ARCH_2 = 18
    ARCH_3 = 19
    ARCH_4 = 20
    ARCH_5 = 21
    ARCH_6 = 22
    ARCH_7 = 23


class VcpuOp(IntEnum):
    """Commands of vcpu_op (xen/vcpu.h)."""

    initialise = 0
    up = 1
    down = 2
    is_up = 3
    get_runstate_info = 4
    register_runstate_memory_area = 5
    set_periodic_timer = 6
    stop_periodic_timer = 7
    set_singleshot_timer = 8
    stop_singleshot_timer = 9
    register_vcpu_info = 10
    send_nmi = 11
    get_physid = 12
    register_vcpu_time_memory_area = 13


class RunState(IntEnum):
    """``vcpu_runstate_info.state`` and the index into its ``time`` (xen/vcpu.h)."""

    running = 0
    runnable = 1
    blocked = 2
    offline = 3


class SshotTmr(IntFlag):
    """``vcpu_set_singleshot_timer.flags`` (xen/vcpu.h)."""

    future = 1


class ConsoleIo(IntEnum):
    """Commands of console_io (xen/xen.h)."""

    write = 0
    read = 1


class XenVer(IntEnum):
    """Commands of xen_version (xen/version.h)."""

    version = 0
    extraversion = 1
    compile_info = 2
    capabilities = 3
    changeset = 4
    platform_parameters = 5
    get_features = 6
    pagesize = 7
    guest_handle = 8
    commandline = 9
    build_id = 10


class XenFeat(IntEnum):
    """Feature bit numbers; feature n is bit n % 32 of submap n // 32 (xen/features.h)."""

    writable_page_tables = 0
    writable_descriptor_tables = 1
    auto_translated_physmap = 2
    supervisor_mode_kernel = 3
    pae_pgdir_above_4gb = 4
    mmu_pt_update_preserve_ad = 5
    highmem_assist = 6
    gnttab_map_avail_bits = 7
    hvm_callback_vector = 8
    hvm_safe_pvclock = 9
    hvm_pirqs = 10
    dom0 = 11
    memory_op_vnode_supported = 13
    ARM_SMCCC_supported = 14
    linux_rsdp_unrestricted = 15
    not_direct_mapped = 16
    direct_mapped = 17


class CallbackOp(IntEnum):
    """Commands of callback_op (xen/callback.h)."""

    register = 0
    unregister = 1


class CallbackType(IntEnum):
    """``callback_register.type`` (xen/callback.h)."""

    event = 0
    failsafe = 1
    syscall = 2
    sysenter_deprecated = 3
    nmi = 4
    sysenter = 5
    syscall32 = 7


class CallbackF(IntFlag):
    """``callback_register.flags`` (xen/callback.h)."""

    mask_events = 1


class VmAssistCmd(IntEnum):
    """First argument of vm_assist (xen/xen.h)."""

    enable = 0
    disable = 1


class VmAssist(IntEnum):
    """Second argument of vm_assist (xen/xen.h)."""

    # The header's name begins with a digit, which a Python name cannot.
    _4gb_segments = 0
    _4gb_segments_notify = 1
    writable_pagetables = 2
    pae_extended_cr3 = 3
    architectural_iopl = 4
    runstate_update_flag = 5
    m2p_strict = 32


class XenNmi(IntEnum):
    """Commands of nmi_op (xen/nmi.h)."""

    register_callback = 0
    unregister_callback = 1


class SegBase(IntEnum):
    """First argument of set_segment_base (xen/arch-x86/xen-x86_64.h)."""

    FS = 0
    GS_USER = 1
    GS_KERNEL = 2
    GS_USER_SEL = 3


class Sif(IntFlag):
    """``start_info.flags`` (xen/xen.h)."""

    PRIVILEGED = 1 << 0
    INITDOMAIN = 1 << 1
    MULTIBOOT_MOD = 1 << 2
    MOD_START_PFN = 1 << 3
    VIRT_P2M_4TOOLS = 1 << 4
    PM_MASK = 0xFF << 8


class DomId(IntEnum):
    """Reserved domain numbers; real domains lie below ``FIRST_RESERVED`` (xen/xen.h)."""

    SELF = 0x7FF0
    IO = 0x7FF1
    XEN = 0x7FF2
    COW = 0x7FF3
    INVALID = 0x7FF4
    IDLE = 0x7FFF
    FIRST_RESERVED = 0x7FF0
    MASK = 0x7FFF


class Vgcf(IntFlag):
    """``vcpu_guest_context.flags`` and ``iret_context.flags`` (xen/arch-x86/xen.h)."""

    i387_valid = 1 << 0
    in_kernel = 1 << 2
    failsafe_disables_events = 1 << 3
    syscall_disables_events = 1 << 4
    online = 1 << 5
    in_syscall = 1 << 8
    """64-bit only: iret to the state that ``sysret`` wants (RCX and R11 are lost)."""


PREFIX: dict[type[IntEnum] | type[IntFlag], str] = {
    Hypercall: "__HYPERVISOR_",
    MmuUpdate: "MMU_",
    MmuExt: "MMUEXT_",
    Uvmf: "UVMF_",
    XenMem: "XENMEM_",
    XenMemF: "XENMEMF_",
    XenMapSpace: "XENMAPSPACE_",
    SchedOp: "SCHEDOP_",
    Shutdown: "SHUTDOWN_",
    EvtchnOp: "EVTCHNOP_",
    EvtchnStat: "EVTCHNSTAT_",
    Virq: "VIRQ_",
    VcpuOp: "VCPUOP_",
    RunState: "RUNSTATE_",
    SshotTmr: "VCPU_SSHOTTMR_",
    ConsoleIo: "CONSOLEIO_",
    XenVer: "XENVER_",
    XenFeat: "XENFEAT_",
    CallbackOp: "CALLBACKOP_",
    CallbackType: "CALLBACKTYPE_",
    CallbackF: "CALLBACKF_",
    VmAssistCmd: "VMASST_CMD_",
    VmAssist: "VMASST_TYPE_",
    PhysdevOp: "PHYSDEVOP_",
    XenNmi: "XENNMI_",
    GnttabOp: "GNTTABOP_",
    GntSt: "GNTST_",
    Gtf: "GTF_",
    GntMap: "GNTMAP_",
    GntCopy: "GNTCOPY_",
    SegBase: "SEGBASE_",
    Sif: "SIF_",
    DomId: "DOMID_",
    Vgcf: "VGCF_",
    XenStore: "XS_",
}
"""Each family's prefix in Xen's headers."""


def name_of(family: type[IntEnum], number: int) -> str:
    """Xen's name for ``number`` without the prefix, or ``family(number)`` if there is none.

    Made for tracing what a guest asked for: it never raises.
    """
    member = family._value2member_map_.get(number)
    if member is None:
        return f"{family.__name__.lower()}({number})"
    return str(member.name).strip("_")


def xen_name(family: type[IntEnum] | type[IntFlag], name: str) -> str:
    """Xen's C identifier of the member called ``name``, such as ``MMUEXT_SET_LDT``."""
    return PREFIX[family] + name.strip("_")
