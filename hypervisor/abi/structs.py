"""Structures that live in memory shared with the guest, and the vCPU's saved state.

See ``record`` for how they are declared and for their 32-bit twins. The arguments of hypercalls
are in ``args``.

Source: the header named in each declaration, under xen/. Units are in the field comments where
Xen's name does not give them.
"""

from typing import Annotated

from hypervisor.abi.layout import (
    MAX_GUEST_CMDLINE,
    XEN_LEGACY_MAX_VCPUS,
    XENCONS_IN_SIZE,
    XENCONS_OUT_SIZE,
    XENSTORE_RING_SIZE,
)
from hypervisor.abi.record import (
    I8,
    I32,
    U8,
    U16,
    U32,
    U64,
    Both,
    Domid,
    Ints,
    Record,
    RecordUnion,
    U32Only32,
    U32Only64,
    U64Only64,
    Ulong,
    UlongOnly32,
    record,
)


@record("", "xen.h")
class StartInfoDomU(Record):
    """``start_info.console.domU``."""

    mfn: Ulong
    evtchn: U32


@record("", "xen.h")
class StartInfoDom0(Record):
    """``start_info.console.dom0``: offset and size in bytes."""

    info_off: U32
    info_size: U32


@record("", "xen.h")
class StartInfoConsole(RecordUnion):
    """``start_info.console``."""

    domU: StartInfoDomU  # noqa: N815 - Xen's name
    dom0: StartInfoDom0


@record("start_info", "xen.h")
class StartInfo(Record):
    """What the builder tells the guest; its address is in RSI at boot."""

    magic: Annotated[Ints, 32, U8]
    nr_pages: Ulong
    shared_info: Ulong  # machine address
    flags: U32  # Sif
    store_mfn: Ulong
    store_evtchn: U32
    console: StartInfoConsole
    pt_base: Ulong  # linear address of the top-level table
    nr_pt_frames: Ulong
    mfn_list: Ulong  # linear address of the P2M list
    mod_start: Ulong  # linear address, or PFN if Sif.MOD_START_PFN
    mod_len: Ulong  # bytes
    cmd_line: Annotated[Ints, MAX_GUEST_CMDLINE, U8]  # Xen: int8_t
    first_p2m_pfn: Ulong
    nr_p2m_frames: Ulong


@record("arch_vcpu_info", "xen.h")
class ArchVcpuInfo(Record):
    """Where a PV guest finds the faulting address of a #PF."""

    cr2: Ulong
    pad: Annotated[Ints, Both(1, 5), Ulong]


@record("vcpu_time_info", "xen.h")
class VcpuTimeInfo(Record):
    """Time for one vCPU, a seqlock: ``version`` is odd during an update."""

    version: U32
    pad0: U32
    tsc_timestamp: U64  # TSC ticks
    system_time: U64  # nanoseconds since boot
    tsc_to_system_mul: U32
    tsc_shift: I8
    flags: U8  # Pvclock
    pad1: Annotated[Ints, 2, U8]


@record("vcpu_info", "xen.h")
class VcpuInfo(Record):
    """Per-vCPU part of ``shared_info``: the virtual interrupt flag and the time."""

    evtchn_upcall_pending: U8
    evtchn_upcall_mask: U8
    evtchn_pending_sel: Ulong
    arch: ArchVcpuInfo
    time: VcpuTimeInfo


@record("arch_shared_info", "xen.h")
class ArchSharedInfo(Record):
    """Written by the guest for the tools, read by nothing here but ``info``."""

    max_pfn: Ulong
    pfn_to_mfn_frame_list_list: Ulong
    nmi_reason: Ulong
    p2m_cr3: Ulong
    p2m_vaddr: Ulong
    p2m_generation: Ulong
    wc_sec_hi: U32Only32


@record("shared_info", "xen.h")
class SharedInfo(Record):
    """The page that hypervisor and guest share."""

    vcpu_info: Annotated[Ints, XEN_LEGACY_MAX_VCPUS, VcpuInfo]
    evtchn_pending: Annotated[Ints, Both(64, 32), Ulong]
    evtchn_mask: Annotated[Ints, Both(64, 32), Ulong]
    wc_version: U32
    wc_sec: U32
    wc_nsec: U32
    wc_sec_hi: U32Only64
    arch: ArchSharedInfo


@record("trap_info", "xen.h")
class TrapInfo(Record):
    """One entry of the guest's virtual IDT; an entry with address 0 ends the list."""

    vector: U8
    flags: U8  # TI_DPL_MASK, TI_IF
    cs: U16
    address: Ulong


@record("iret_context", "arch-x86/xen-x86_64.h")
class IretContext(Record):
    """64-bit only: what the ``iret`` hypercall finds on the guest's stack, from RSP upward."""

    rax: U64
    r11: U64
    rcx: U64
    flags: U64  # Vgcf.in_syscall or 0
    rip: U64
    cs: U64
    rflags: U64
    rsp: U64
    ss: U64


@record("cpu_user_regs", "arch-x86/xen-x86_64.h")
class CpuUserRegs64(Record):
    """Saved registers of a 64-bit guest."""

    r15: U64
    r14: U64
    r13: U64
    r12: U64
    rbp: U64
    rbx: U64
    r11: U64
    r10: U64
    r9: U64
    r8: U64
    rax: U64
    rcx: U64
    rdx: U64
    rsi: U64
    rdi: U64
    error_code: U32
    entry_vector: U32
    rip: U64
    cs: U16
    _pad0: Annotated[Ints, 1, U16]
    saved_upcall_mask: U8
    _pad1: Annotated[Ints, 3, U8]
    rflags: U64
    rsp: U64
    ss: U16
    _pad2: Annotated[Ints, 3, U16]
    es: U16
    _pad3: Annotated[Ints, 3, U16]
    ds: U16
    _pad4: Annotated[Ints, 3, U16]
    fs: U16
    _pad5: Annotated[Ints, 3, U16]
    gs: U16
    _pad6: Annotated[Ints, 3, U16]


@record("cpu_user_regs", "arch-x86/xen-x86_32.h")
class CpuUserRegs32(Record):
    """Saved registers of a 32-bit guest."""

    ebx: U32
    ecx: U32
    edx: U32
    esi: U32
    edi: U32
    ebp: U32
    eax: U32
    error_code: U16
    entry_vector: U16
    eip: U32
    cs: U16
    saved_upcall_mask: U8
    _pad0: U8
    eflags: U32
    esp: U32
    ss: U16
    _pad1: U16
    es: U16
    _pad2: U16
    ds: U16
    _pad3: U16
    fs: U16
    _pad4: U16
    gs: U16
    _pad5: U16


@record("vcpu_guest_context", "xen.h")
class VcpuGuestContext(Record):
    """All of a vCPU: the argument of VCPUOP_initialise.

    ``user_regs`` is ``CpuUserRegs64`` or, in the 32-bit twin, ``CpuUserRegs32``.
    """

    fpu_ctxt: Annotated[Ints, 512, U8]  # an FXSAVE image
    flags: Ulong  # Vgcf
    user_regs: Annotated[CpuUserRegs64, Both(CpuUserRegs64, CpuUserRegs32)]
    trap_ctxt: Annotated[Ints, 256, TrapInfo]
    ldt_base: Ulong
    ldt_ents: Ulong
    gdt_frames: Annotated[Ints, 16, Ulong]
    gdt_ents: Ulong
    kernel_ss: Ulong
    kernel_sp: Ulong
    ctrlreg: Annotated[Ints, 8, Ulong]
    debugreg: Annotated[Ints, 8, Ulong]
    event_callback_cs: UlongOnly32
    event_callback_eip: Ulong
    failsafe_callback_cs: UlongOnly32
    failsafe_callback_eip: Ulong
    syscall_callback_eip: U64Only64
    vm_assist: Ulong
    fs_base: U64Only64
    gs_base_kernel: U64Only64
    gs_base_user: U64Only64


@record("vcpu_runstate_info", "vcpu.h")
class VcpuRunstateInfo(Record):
    """How long a vCPU has been in each RunState, in nanoseconds."""

    state: I32
    state_entry_time: U64
    time: Annotated[Ints, 4, U64]


@record("grant_entry_v1", "grant_table.h")
class GrantEntryV1(Record):
    """One entry of a version 1 grant table; ``frame`` is an MFN."""

    flags: U16  # Gtf
    domid: Domid
    frame: U32


@record("grant_entry_header", "grant_table.h")
class GrantEntryHeader(Record):
    """What all forms of a version 2 entry begin with."""

    flags: U16  # Gtf
    domid: Domid


@record("", "grant_table.h")
class GrantFullPage(Record):
    """A whole frame; ``frame`` is an MFN."""

    hdr: GrantEntryHeader
    pad0: U32
    frame: U64


@record("", "grant_table.h")
class GrantSubPage(Record):
    """Part of a frame, for copies only; ``page_off`` and ``length`` in bytes."""

    hdr: GrantEntryHeader
    page_off: U16
    length: U16
    frame: U64


@record("", "grant_table.h")
class GrantTransitive(Record):
    """What another domain granted to the owner, passed on."""

    hdr: GrantEntryHeader
    trans_domid: Domid
    pad0: U16
    gref: U32


@record("grant_entry_v2", "grant_table.h")
class GrantEntryV2(RecordUnion):
    """One entry of a version 2 grant table."""

    hdr: GrantEntryHeader
    full_page: GrantFullPage
    sub_page: GrantSubPage
    transitive: GrantTransitive


@record("xencons_interface", "io/console.h")
class XenconsInterface(Record):
    """The console page. Indices run freely; a ring's index is taken modulo its size."""

    in_: Annotated[Ints, XENCONS_IN_SIZE, U8]
    out: Annotated[Ints, XENCONS_OUT_SIZE, U8]
    in_cons: U32
    in_prod: U32
    out_cons: U32
    out_prod: U32


@record("xenstore_domain_interface", "io/xs_wire.h")
class XenstoreDomainInterface(Record):
    """The XenStore page. Indices run freely, modulo XENSTORE_RING_SIZE."""

    req: Annotated[Ints, XENSTORE_RING_SIZE, U8]
    rsp: Annotated[Ints, XENSTORE_RING_SIZE, U8]
    req_cons: U32
    req_prod: U32
    rsp_cons: U32
    rsp_prod: U32
    server_features: U32
    connection: U32
    error: U32


@record("xsd_sockmsg", "io/xs_wire.h")
class XsdSockmsg(Record):
    """Header of one XenStore message; ``len`` is the payload in bytes."""

    type: U32  # XenStore
    req_id: U32
    tx_id: U32
    len: U32
