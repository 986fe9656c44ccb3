"""The vCPU's hypercalls: trap table, callbacks, stack, iret, segments, FPU and debug registers.

Source: xen.h and arch-x86/xen-x86_64.h (``trap_info``, ``iret_context``, SEGBASE_*), callback.h,
nmi.h. Errnos are Xen 4.17's, which accepts more than one would think: a code selector in the trap
table or a stack selector is not refused but gets the RPL of the guest's kernel, and a 64-bit
guest's handlers are entered with the flat segments whatever it says.
"""

import struct
from typing import TYPE_CHECKING, Any, Final

from emu.cpu import FS, GS, R11, RAX, RCX, RIP, RSP
from emu.paging import CR4_DE, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_IOPL, RFLAGS_TF, RFLAGS_VM
from emu.trap import NMI
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, VA, is_canonical
from hypervisor.abi import (
    FIRST_RESERVED_GDT_ENTRY,
    TI_DPL_MASK,
    TI_IF,
    CallbackF,
    CallbackOp,
    CallbackRegister,
    CallbackType,
    CallbackUnregister,
    Errno,
    Flat32,
    Flat64,
    Hypercall,
    IretContext,
    SegBase,
    Vgcf,
    VmAssist,
    Width,
    XenNmi,
    XennmiCallback,
    size_of,
)
from hypervisor.debugregs import get_debug_register, set_debug_register
from hypervisor.descriptors import SegmentFault, check_descriptor, fix_selector
from hypervisor.domain import NO_FRAME, Callback, Domain, TrapEntry
from hypervisor.errors import GuestFault
from hypervisor.frames import PageType
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_TRAP_ENTRIES: Final = 4096
"""Entries that one set_trap_table looks at; a table without an end gets -E2BIG."""
_TRAP_INFO: Final[dict[Width, struct.Struct]] = {
    64: struct.Struct("<BBH4xQ"),
    32: struct.Struct("<BBHI"),
}
_PFN: Final[dict[Width, str]] = {64: "Q", 32: "I"}
_IRET: Final = struct.Struct("<9Q")
_RFLAGS_WRITABLE: Final = 0x003F_7FD7 & ~(RFLAGS_IOPL | RFLAGS_VM)
_IOPL_SHIFT: Final = 12
_ARCHITECTURAL_IOPL: Final = 1 << VmAssist.architectural_iopl
_M32: Final = (1 << 32) - 1
# Plain integers for ``iret``, the hot one: arithmetic with enumerations is ten times slower.
_IN_SYSCALL: Final = int(Vgcf.in_syscall)
_USER_CS64: Final = int(Flat64.USER_CS64)
_USER_SS64: Final = int(Flat64.USER_SS64)
_DESCRIPTORS_PER_PAGE: Final = 512
_EINVAL: Final = -int(Errno.EINVAL)
_ENOSYS: Final = -int(Errno.ENOSYS)

if size_of(IretContext) != _IRET.size:
    raise TypeError("iret_context is not nine 64-bit words")


# -- trap table and callbacks ------------------------------------------------------------------


@hypercall(Hypercall.set_trap_table, 1)
def set_trap_table(hv: "Hypervisor", domain: Domain, table: int) -> int:
    """Copy entries up to one with address 0; a null table clears them all.

    Entries before a bad one stay, as in Xen.
    """
    if table == 0:
        domain.trap_table.clear()
        return 0
    entry = _TRAP_INFO[domain.width]
    for i in range(MAX_TRAP_ENTRIES):
        raw = hv.guest.read(domain, table + i * entry.size, entry.size)
        vector, flags, cs, address = entry.unpack(raw)
        if address == 0:
            hv.spend(i)
            return 0
        if not is_canonical(address):
            hv.spend(i)
            return _EINVAL
        domain.trap_table[vector] = TrapEntry(
            fix_selector(cs, domain.width), VA(address), flags & TI_DPL_MASK, bool(flags & TI_IF)
        )
    hv.spend(MAX_TRAP_ENTRIES)
    return -int(Errno.E2BIG)


def _register(domain: Domain, kind: int, address: int, flags: int, cs: int = 0) -> int:
    if not is_canonical(address):
        return _EINVAL
    if domain.width == 32:
        cs = fix_selector(cs & 0xFFFF, 32)
    callback = Callback(VA(address), bool(flags & CallbackF.mask_events), cs)
    if kind == CallbackType.event:
        domain.event_callback = callback
    elif kind == CallbackType.failsafe:
        domain.failsafe_callback = callback
    elif kind == CallbackType.syscall and domain.width == 64:
        domain.syscall_callback = callback
    elif kind == CallbackType.syscall32:
        domain.syscall32_callback = callback
    elif kind == CallbackType.sysenter:
        domain.sysenter_callback = callback
    elif kind == CallbackType.nmi:
        kernel_cs = Flat64.KERNEL_CS if domain.width == 64 else Flat32.KERNEL_CS
        domain.trap_table[NMI] = TrapEntry(kernel_cs, VA(address), 0, True)
    else:
        return _ENOSYS
    return 0


def _unregister(domain: Domain, kind: int) -> int:
    if kind == CallbackType.nmi:
        domain.trap_table.pop(NMI, None)
        return 0
    known = {
        CallbackType.event,
        CallbackType.failsafe,
        CallbackType.syscall,
        CallbackType.syscall32,
        CallbackType.sysenter,
    }
    if domain.width == 32:
        known.remove(CallbackType.syscall)
    return _EINVAL if kind in known else _ENOSYS


@hypercall(Hypercall.set_callbacks, 3, width=64)
def set_callbacks(
    _hv: "Hypervisor", domain: Domain, event: int, failsafe: int, syscall: int
) -> int:
    """Register three callbacks at once; one whose address is not canonical is left as it was."""
    _register(domain, CallbackType.event, event, 0)
    _register(domain, CallbackType.failsafe, failsafe, 0)
    _register(domain, CallbackType.syscall, syscall, 0)
    return 0


@hypercall(Hypercall.set_callbacks, 4, width=32)
def set_callbacks32(
    _hv: "Hypervisor", domain: Domain, event_cs: int, event: int, failsafe_cs: int, failsafe: int
) -> int:
    """The same of a 32-bit guest, whose callbacks have code selectors."""
    _register(domain, CallbackType.event, event, 0, event_cs)
    _register(domain, CallbackType.failsafe, failsafe, 0, failsafe_cs)
    return 0


@hypercall(Hypercall.callback_op, 2)
def callback_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Register or unregister one callback; only the NMI's can be unregistered."""
    command &= _M32
    if command == CallbackOp.register:
        request = hv.guest.record(domain, CallbackRegister, argument)
        where: Any = request.address
        if isinstance(where, int):
            return _register(domain, request.type, where, request.flags)
        return _register(domain, request.type, where.eip, request.flags, where.cs)
    if command == CallbackOp.unregister:
        return _unregister(domain, hv.guest.record(domain, CallbackUnregister, argument).type)
    return _ENOSYS if domain.width == 64 else _EINVAL


@hypercall(Hypercall.nmi_op, 2)
def nmi_op(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """The older way to register the NMI callback."""
    command &= _M32
    if command == XenNmi.register_callback:
        handler = hv.guest.record(domain, XennmiCallback, argument).handler_address
        return _register(domain, CallbackType.nmi, handler, 0)
    if command == XenNmi.unregister_callback:
        return _unregister(domain, CallbackType.nmi)
    return _ENOSYS


@hypercall(Hypercall.stack_switch, 2)
def stack_switch(_hv: "Hypervisor", domain: Domain, ss: int, sp: int) -> int:
    """Where bounce frames start that come from user mode."""
    domain.kernel_ss = fix_selector(ss & 0xFFFF, domain.width)
    domain.kernel_sp = VA(sp)
    return 0


# -- iret --------------------------------------------------------------------------------------


@hypercall(Hypercall.iret, 0, width=32)
def iret32(hv: "Hypervisor", domain: Domain) -> None:
    """Go on where the frame at ESP says; see ``hypervisor.entry32``."""
    hv.traps.entry32.iret(domain)


@hypercall(Hypercall.iret, 0, width=64)
def iret(hv: "Hypervisor", domain: Domain) -> int | None:
    """Go on where the frame at RSP says: CS with RPL 3 means user mode.

    A frame that cannot be read, or user mode without a user table, ends the domain. For a state
    that the CPU would refuse to enter the guest gets the exception, as if raised in that state.
    """
    cpu = hv.machine.cpu
    words = cpu.words
    try:
        raw = hv.guest.read(domain, words[RSP], _IRET.size)
    except GuestFault:
        hv.crash(domain, f"iret: the frame at {words[RSP]:#x} cannot be read")
        return None
    rax, r11, rcx, how, rip, cs, rflags, rsp, ss = _IRET.unpack(raw)
    traps = hv.traps
    if cs & 3 == 3:
        if domain.user_table == NO_FRAME:
            hv.crash(domain, "iret to user mode without a user page table")
            return None
        traps.toggle_mode(domain)
    if domain.vm_assist & _ARCHITECTURAL_IOPL:
        domain.iopl = (rflags & RFLAGS_IOPL) >> _IOPL_SHIFT
    cs, ss = cs & 0xFFFF | 3, ss & 0xFFFF | 3
    flags = rflags & _RFLAGS_WRITABLE | RFLAGS_IF | RFLAGS_FIXED
    cpu.flags = flags
    words[RAX] = rax
    words[RSP] = rsp
    words[RIP] = rip
    traps.set_upcall_mask(domain, not rflags & RFLAGS_IF)
    if how & _IN_SYSCALL:
        words[RCX], words[R11] = rip, flags
    else:
        words[RCX], words[R11] = rcx, r11
        if flags & RFLAGS_TF:
            hv.machine.leave_as_iret()
    if cs == _USER_CS64 and is_canonical(rip) and (how & _IN_SYSCALL or ss == _USER_SS64):
        traps.load_flat()
        return None
    if how & _IN_SYSCALL and is_canonical(rip):
        # SYSRET: the flat segments, 32-bit ones if that is what was asked for.
        cs = cs if cs == Flat64.USER_CS32 else _USER_CS64
        ss = _USER_SS64
        words[RIP] = rip if cs == _USER_CS64 else rip & _M32
        rip = words[RIP]
    loaded = traps.descriptors.code_and_stack(domain, cs, ss, rip)
    if isinstance(loaded, SegmentFault):
        traps.exception(domain, loaded.vector, loaded.error, cs, ss)
    else:
        traps.load_code_and_stack(*loaded)
    return None


# -- segments ----------------------------------------------------------------------------------


@hypercall(Hypercall.set_gdt, 2)
def set_gdt(hv: "Hypervisor", domain: Domain, frame_list: int, entries: int) -> int:
    """Replace the GDT by ``entries`` descriptors in the frames that are listed."""
    entries &= _M32
    if entries > FIRST_RESERVED_GDT_ENTRY:
        return _EINVAL
    count = (entries + _DESCRIPTORS_PER_PAGE - 1) // _DESCRIPTORS_PER_PAGE
    pfns = struct.Struct(f"<{count}{_PFN[domain.width]}")
    raw = hv.guest.read(domain, frame_list, pfns.size) if count else b""
    return hv.traps.descriptors.set_gdt(domain, list(pfns.unpack(raw)), entries)


@hypercall(Hypercall.update_descriptor, 4, width=32)
def update_descriptor32(
    hv: "Hypervisor", domain: Domain, address: int, address_hi: int, low: int, high: int
) -> int | None:
    """The same of a 32-bit guest: two 64-bit numbers in four registers."""
    return update_descriptor(hv, domain, address | address_hi << 32, low | high << 32)


@hypercall(Hypercall.update_descriptor, 2, width=64)
def update_descriptor(hv: "Hypervisor", domain: Domain, address: int, descriptor: int) -> int:
    """Store one descriptor at a machine address in a descriptor or data page of the caller."""
    frames = hv.frames
    mfn = address >> PAGE_SHIFT
    checked = check_descriptor(descriptor, domain.width)
    if address & 7 or not frames.exists(mfn) or frames.owner[mfn] != domain.id or checked is None:
        return _EINVAL
    usable = (PageType.SEG_DESC, PageType.WRITABLE)
    if frames.type_count[mfn] and frames.type[mfn] not in usable:
        return _EINVAL
    hv.machine.memory.words[(mfn << PAGE_SHIFT | address & PAGE_MASK) >> 3] = checked
    hv.machine.coherence.wrote(MFN(mfn))
    return 0


@hypercall(Hypercall.set_segment_base, 2, width=64)
def set_segment_base(hv: "Hypervisor", domain: Domain, which: int, base: int) -> int:
    """Set a base of FS or GS; the caller is in kernel mode, so the user's GS base is the other."""
    which &= _M32
    cpu = hv.machine.cpu
    if which == SegBase.GS_USER_SEL:
        _load_user_gs(hv, domain, base & 0xFFFF)
        return 0
    if which not in (SegBase.FS, SegBase.GS_USER, SegBase.GS_KERNEL) or not is_canonical(base):
        return _EINVAL
    if which == SegBase.GS_USER:
        cpu.kernel_gs_base = base
    else:
        cpu.set_segment_base(FS if which == SegBase.FS else GS, base)
    return 0


def _load_user_gs(hv: "Hypervisor", domain: Domain, selector: int) -> None:
    """Load GS for user mode: its selector is visible at once, its base after the switch.

    A selector that cannot be loaded becomes null, and the call succeeds all the same, as in Xen.
    """
    cpu = hv.machine.cpu
    live = cpu.segment_base(GS)
    segment = hv.traps.descriptors.data(domain, selector | 3) if selector > 3 else None
    if segment is None:
        cpu.load_segment(GS, selector if selector <= 3 else 0, 0)
        cpu.kernel_gs_base = 0
    else:
        cpu.load_segment(GS, segment.selector, segment.attributes, limit=segment.limit)
        cpu.kernel_gs_base = segment.base
    cpu.set_segment_base(GS, live)


# -- FPU and debug registers -------------------------------------------------------------------


@hypercall(Hypercall.fpu_taskswitch, 1)
def fpu_taskswitch(hv: "Hypervisor", domain: Domain, on: int) -> int:
    """Set or clear the virtual CR0.TS."""
    domain.cr0_ts = bool(on & _M32)
    hv.machine.cpu.set_task_switched(domain.cr0_ts)
    return 0


@hypercall(Hypercall.set_debugreg, 2)
def set_debugreg(hv: "Hypervisor", domain: Domain, number: int, value: int) -> int:
    """Write a virtual debug register."""
    extensions = bool(hv.machine.cpu.cr4 & CR4_DE)
    answer = set_debug_register(domain, number & _M32, value, extensions)
    hv.breakpoints.arm(domain)
    return answer


@hypercall(Hypercall.get_debugreg, 1)
def get_debugreg(hv: "Hypervisor", domain: Domain, number: int) -> int:
    """Read a virtual debug register."""
    extensions = bool(hv.machine.cpu.cr4 & CR4_DE)
    value = get_debug_register(domain, number & _M32, extensions)
    return -int(Errno.ENODEV) if value is None else value
