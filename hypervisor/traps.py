"""Traps: what leaves guest code, and the frames that enter a 64-bit guest's handlers.

Frames of 32-bit guests are in ``hypervisor.entry32``; what follows is about 64-bit ones.

Kernel and user both run at CPL 3; which of the two a guest is in is ``Domain.kernel_mode``. A trap
is either the hypervisor's (an instruction to emulate, a fault to count) or the guest's, and then
the guest's kernel is entered through a *bounce frame* on its stack, upward from RSP::

    rcx  r11  [error]  rip  cs | mask << 32  rflags  rsp  ss

Everything here that a guest sees is Xen's: from user mode the frame starts at the registered stack,
aligned down to 16; in kernel mode the pushed CS has RPL 0; RFLAGS.IF is the virtual one (not
``evtchn_upcall_mask``); the U bit of a page fault's error code follows the virtual mode; the
handler starts with RCX = RIP and R11 = RFLAGS, because Xen leaves by SYSRET.

The failsafe callback is kept but never entered: Xen 4.17 enters it only if it cannot load a data
segment when it switches to a vCPU, and here a domain's segments are restored with their hidden
parts. A state that IRET refuses is the guest's #GP, #NP or #SS, also in Xen.

A frame that cannot be written, or a handler that is not there, ends the domain with a report.

A write to a shared frame is counted here and then is the guest's own #PF: its kernel copies. This
is the hot path (copy-on-write), so it reads registers in place and writes the frame in one piece.
CR2 and the event mask are stored in shared_info without a word to ``coherence``: only a guest that
runs shared_info as code could tell, and it would be stale code of its own.

Source: xen.h and arch-x86/xen-x86_64.h (frame, TI_*), callback.h; Intel SDM volume 3A, 6.13 (error
codes). What Xen 4.17 does beyond its headers was read in its source and is said where it matters.
"""

import struct
from typing import TYPE_CHECKING, Final

from emu import Trap, TrapKind
from emu.cpu import (
    CODE64,
    CS,
    CS_ATTRIBUTES,
    CS_SELECTOR,
    DATA,
    GS,
    R11,
    RCX,
    RIP,
    RSP,
    SS,
    SS_SELECTOR,
)
from emu.machine import CpuidResult
from emu.paging import (
    DR6_BS,
    PF_I,
    PF_P,
    PF_RSVD,
    PF_U,
    PF_W,
    PTE_AVL,
    PTE_MFN_MASK,
    PTE_RW,
    RFLAGS_AC,
    RFLAGS_DF,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_NT,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VM,
)
from emu.trap import BP, DB, GP, HAS_ERROR_CODE, NM, OF, PF, UD, vector_name
from emu.trap import SS as SS_FAULT
from emu.units import ENTRIES, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA, mfn_of
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    DomId,
    Flat64,
    VmAssist,
    Width,
)
from hypervisor.callgate import CallGates
from hypervisor.cpuid import answer, policy
from hypervisor.descriptors import Descriptors, Segment
from hypervisor.domain import Callback, Domain
from hypervisor.emulate import Emulator
from hypervisor.entry32 import Entry32
from hypervisor.errors import GuestFault, HypervisorError
from hypervisor.frames import PageType
from hypervisor.ptwr import TableWrites
from hypervisor.sharedinfo import SHARED, UPCALL_MASK
from hypervisor.stackfault import is_stack_fault

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_WORD: Final = struct.Struct("<Q")
_CR2: Final = SHARED[64].cr2
_CR2_PAE: Final = SHARED[32].cr2
_EXCEPTION: Final = TrapKind.EXCEPTION
_INT_N: Final = TrapKind.SOFTWARE_INTERRUPT
_INT80: Final = 0x80
_HYPERCALL: Final = 0x82
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
_KERNEL_CS: Final = int(Flat64.KERNEL_CS)
_KERNEL_SS: Final = int(Flat64.KERNEL_SS)
_COW: Final = int(DomId.COW)
_FRAME: Final = struct.Struct("<7Q")
_ERROR_FRAME: Final = struct.Struct("<8Q")
_CLEARED: Final = RFLAGS_AC | RFLAGS_VM | RFLAGS_RF | RFLAGS_NT | RFLAGS_TF | RFLAGS_IOPL
_NOT_PUSHED: Final = ~(RFLAGS_IF | RFLAGS_IOPL)
_COW_MASK: Final = PF_P | PF_W | PF_RSVD | PF_I
_COW_FAULT: Final = PF_P | PF_W
_IOPL_SHIFT: Final = 12
_ARCHITECTURAL_IOPL: Final = 1 << VmAssist.architectural_iopl
_WRITABLE_TABLES: Final = 1 << VmAssist.writable_pagetables
_L1: Final = int(PageType.L1)
_TSC_KHZ: Final = 1_000_000
_KERNEL_DPL: Final = 1
"""``int n`` by a guest's kernel counts as ring 1, as in Xen: a gate of DPL 0 is closed to it."""


def _name(what: str | int) -> str:
    return vector_name(what) if isinstance(what, int) else what


class Traps:
    """Handles every trap but a kernel's SYSCALL, and enters the guest's handlers."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words
        self._memory = hv.machine.memory
        self._table_words = hv.machine.memory.words
        self._halves = hv.machine.cpu.halves
        self._coherence = hv.machine.coherence
        self._guest = hv.guest
        self._owner = hv.frames.owner
        self.descriptors = Descriptors(hv)
        self.emulator = Emulator(hv)
        self._table_writes = TableWrites(hv, self.emulator)
        self.entry32 = Entry32(hv)
        self._call_gates = CallGates(hv, self.emulator)
        mfn_bits = (hv.frames.total - 1).bit_length()
        self._cpuid: dict[Width, dict[tuple[int, int], CpuidResult]] = {
            64: policy(mfn_bits, _TSC_KHZ, 64),
            32: policy(mfn_bits, _TSC_KHZ, 32),
        }
        # A domain that has never run starts from this state, in ring 3 like every guest.
        hv.machine.flat64(3, _KERNEL_CS, _KERNEL_SS)
        self._cpu.flags = RFLAGS_IF

    # -- what the hypervisor calls ---------------------------------------------------------

    def init_window(self, domain: Domain) -> None:
        """Give a new domain its GDT window."""
        self.descriptors.init_window(domain)

    def drop_descriptors(self, domain: Domain) -> None:
        """A domain ends: give back its descriptor pages and forget its virtual devices."""
        self.descriptors.drop(domain)
        self.emulator.forget(domain)

    def cpuid(self, leaf: int, subleaf: int) -> CpuidResult:
        """The machine's ``on_cpuid``: the policy of ``hypervisor.cpuid``."""
        return answer(self._cpuid[self._hv.current.width], leaf, subleaf)

    def deliver_upcall(self, domain: Domain) -> None:
        """Enter the guest's event callback; events are masked on the way."""
        callback = domain.event_callback
        if callback is None:
            self._enter(domain, 0, True, None, "event")
            return
        if domain.width == 32:
            self.entry32.note_mode(domain)  # its slice may have ended in either
        self._enter(domain, callback.address, True, None, "event", handler_cs=callback.cs)

    def on_trap(self, trap: Trap) -> None:
        """The machine's ``on_trap``."""
        hv = self._hv
        domain = hv.current
        kind, vector, error, address, _, _, _ = trap
        if domain.width == 32:
            self.entry32.note_mode(domain)
            if vector == _HYPERCALL and kind is _INT_N and domain.kernel_mode:
                hv.dispatch.on_int82(domain)
                return
        domain.recent.append(trap)
        domain.last_exception = trap
        if kind is _EXCEPTION:
            if self._hv.breakpoints.resumed == trap.position:
                self._cpu.resume = True
            if vector == PF:
                self._page_fault(domain, address, error)
            elif vector == UD and self._cpu.exception_is_int:
                # ``int 6`` comes this way, with RIP still at the instruction.
                self._words[RIP] = self._cpu.exception_next_rip
                self._software_interrupt(domain, vector)
            else:
                self._exception(domain, vector, error)
        elif kind is _INT_N:
            self._software_interrupt(domain, vector)
        elif kind is TrapKind.SYSENTER:
            self._sysenter(domain)
        elif kind is TrapKind.PORT_IO:
            if not self.emulator.privileged(domain):
                self.exception(domain, GP, 0)
        else:
            raise HypervisorError(f"{trap}: not a trap that comes here")
        if domain.exit is None:
            hv.leave(domain)

    # -- exceptions ------------------------------------------------------------------------

    def _page_fault(self, domain: Domain, address: VA, error: int) -> None:
        """A #PF of the guest's, from the MMU.

        A write that was denied to a present page may be one to a shared frame. The AVL bits of the
        entry are the guest's own mark, and may be absent or forged; whose the frame is decides. Or
        it is one to a page table, which ``hypervisor.ptwr`` may carry out.
        """
        hv = self._hv
        if error & _COW_MASK == _COW_FAULT:
            # The MMU found every level present, so that they need not be looked at again.
            words = self._table_words
            table = domain.table if domain.kernel_mode else domain.user_table
            entry = words[table * ENTRIES + (address >> 39 & 511)]
            entry = words[((entry & PTE_MFN_MASK) >> 3) + (address >> 30 & 511)]
            entry = words[((entry & PTE_MFN_MASK) >> 3) + (address >> 21 & 511)]
            entry = words[((entry & PTE_MFN_MASK) >> 3) + (address >> PAGE_SHIFT & 511)]
            mfn = (entry & PTE_MFN_MASK) >> PAGE_SHIFT
            if self._owner[mfn] == _COW:
                hv.sharing.count_fault(domain)
                if hv.listeners:
                    hv.emit("cow_fault", domain, va=int(address), mfn=mfn, avl=entry & PTE_AVL)
            elif (
                (domain.vm_assist & _WRITABLE_TABLES or domain.privileged)
                and domain.kernel_mode
                and not entry & PTE_RW
                and self._owner[mfn] == domain.id
                and hv.frames.type[mfn] == _L1
                and hv.frames.type_count[mfn]
                and self._table_writes.emulate(domain, address, MFN(mfn))
            ):
                return
        elif not error & PF_U and self.descriptors.ldt_fault(domain, address, error):
            # Not the guest's access: the CPU's own, to a descriptor.
            return
        self.page_fault(domain, address, error)

    def page_fault(self, domain: Domain, address: int, error: int) -> None:
        """Deliver #PF for ``address``; the U bit of ``error`` is put right here.

        Where the fault is not the MMU's the caller has set CR2.
        """
        domain.page_faults += 1
        self.set_cr2(domain, address)
        error = error & ~PF_U if domain.kernel_mode else error | PF_U
        self.exception(domain, PF, error)

    def set_cr2(self, domain: Domain, value: int) -> None:
        """The guest's CR2, where a PV kernel looks for it."""
        if domain.width == 64:
            _WORD.pack_into(self._memory.bytes, domain.vcpu_info + _CR2, value)
        else:
            at = domain.vcpu_info + _CR2_PAE
            self._memory.bytes[at : at + 4] = (value & _M32).to_bytes(4, "little")

    def set_upcall_mask(self, domain: Domain, masked: bool) -> None:
        """The virtual interrupt flag, inverted."""
        self._memory.bytes[domain.vcpu_info + UPCALL_MASK] = masked

    def _exception(self, domain: Domain, vector: int, error: int) -> None:
        """A fault of the guest's that is not #PF: emulated if it is ours, else delivered."""
        if vector == GP:
            if error == 0:
                if self.emulator.privileged(domain):
                    return
                if is_stack_fault(self._cpu, self.emulator.fetch(domain, 15), self._words[RIP]):
                    vector = SS_FAULT
            elif domain.width == 32 and self._call_gates.emulate(domain, error):
                return
        elif vector == UD:
            if self.emulator.forced(domain):
                return
            if self.emulator.is_rdpmc(domain):
                vector, error = GP, 0
        elif vector == NM:
            # Xen clears TS when it delivers #NM: the guest's handler need not ask for it.
            domain.cr0_ts = False
            self._cpu.set_task_switched(False)
        elif vector == DB:
            # No breakpoint is ever armed in the real CPU: only single steps come here.
            domain.debug_registers[6] |= DR6_BS | self._hv.breakpoints.take()
        self.exception(domain, vector, error if vector in HAS_ERROR_CODE else None)

    def exception(
        self,
        domain: Domain,
        vector: int,
        error: int | None,
        cs: int | None = None,
        ss: int | None = None,
    ) -> None:
        """Enter the guest's handler of ``vector``; ``error`` is None where none is pushed.

        ``cs`` and ``ss``: what the frame says, where the CPU could not be brought to that.
        """
        gate = domain.trap_table.get(vector)
        if self._hv.listeners:
            self._hv.emit("trap", domain, vector=vector, error=error, rip=self._words[RIP])
        if gate is None:
            self._enter(domain, 0, False, error, vector, cs, ss)
        else:
            self._enter(
                domain, gate.address, gate.masks_events, error, vector, cs, ss, handler_cs=gate.cs
            )

    def debug_exception(self, domain: Domain) -> None:
        """#DB for a breakpoint, of which DR6 says already which; from outside of any trap."""
        if domain.width == 32:
            self.entry32.note_mode(domain)
        rip = self._cpu.rip
        position = self._hv.machine.position
        domain.last_exception = Trap(_EXCEPTION, DB, 0, VA(0), rip, rip, position)
        domain.recent.append(domain.last_exception)
        self.exception(domain, DB, None)
        if domain.exit is None:
            self._hv.leave(domain)

    def _software_interrupt(self, domain: Domain, vector: int) -> None:
        """``int n``; RIP is behind it.

        INT3, INTO and ``int 0x80`` with a handler go through, as they do on Xen, whose own gates
        for them have DPL 3. All others are checked against the guest's.
        """
        gate = domain.trap_table.get(vector)
        least = _KERNEL_DPL if domain.kernel_mode else 3
        open_gate = vector in (BP, OF) or (vector == _INT80 and gate is not None)
        if open_gate or (gate is not None and gate.dpl >= least):
            self.exception(domain, vector, None)
            return
        # How long the instruction was is not known any more: two bytes, unless it has prefixes.
        self._words[RIP] = (self._words[RIP] - 2) & _M64
        self.exception(domain, GP, vector << 3 | 2)

    # -- system calls of user mode ---------------------------------------------------------

    def syscall_from_user(self, domain: Domain) -> None:
        """SYSCALL in user mode: the kernel's callback, or #UD at the instruction without one.

        In compatibility mode it is always #UD, as on Intel's CPUs (CPUID says that this is one).
        """
        callback = domain.syscall_callback
        if callback is None or callback.address == 0 or self._cpu.bits != 64:
            self._words[RIP] = (self._words[RIP] - 2) & _M64
            self.exception(domain, UD, None)
        else:
            self._callback(domain, callback, "syscall", _KERNEL_CS)
        if domain.exit is None:
            self._hv.leave(domain)

    def _sysenter(self, domain: Domain) -> None:
        """SYSENTER keeps no return address: the frame says RIP 0, RSP 0 and a null CS."""
        words = self._words
        words[RIP] = words[RSP] = 0
        callback = domain.sysenter_callback
        gate = domain.trap_table.get(GP)
        if domain.width == 32:
            self.entry32.sysenter(domain, callback, gate)
        elif callback is None or callback.address == 0:
            address = 0 if gate is None else gate.address
            self._enter(domain, address, True, 0, "sysenter", cs=3)
        else:
            self._callback(domain, callback, "sysenter", 3)

    def _callback(self, domain: Domain, callback: Callback, name: str, cs: int) -> None:
        masks, address = callback.masks_events, callback.address
        self._enter(domain, address, masks, None, name, cs=cs, ss=_KERNEL_SS)
        if name == "syscall" and domain.exit is None:
            self._cpu.flags &= ~RFLAGS_DF

    # -- modes -----------------------------------------------------------------------------

    def toggle_mode(self, domain: Domain) -> None:
        """From virtual kernel to user mode or back: SWAPGS, and the other address space."""
        cpu = self._cpu
        other = cpu.kernel_gs_base
        cpu.kernel_gs_base = cpu.segment_base(GS)
        cpu.set_segment_base(GS, other)
        domain.kernel_mode = not domain.kernel_mode
        if domain.table != domain.user_table:
            self._hv.load_address_space(domain)

    def load_code_and_stack(self, code: Segment, stack: Segment) -> None:
        """Load CS and SS, and the mode that follows from them."""
        cpu = self._cpu
        cpu.load_segment(CS, code.selector, code.attributes, code.base, code.limit)
        cpu.load_segment(SS, stack.selector, stack.attributes, stack.base, stack.limit)
        cpu.sync_mode()

    def load_flat(self) -> None:
        """Load the flat 64-bit CS and SS of the ABI.

        The selectors alone do not say that they are loaded: the engine lets IRETD at CPL 3 go to
        virtual-8086 mode, which long mode does not have, and there a selector is only a number.
        """
        cpu = self._cpu
        halves = self._halves
        if (
            halves[CS_SELECTOR] != _KERNEL_CS
            or halves[SS_SELECTOR] != _KERNEL_SS
            or halves[CS_ATTRIBUTES] != CODE64
        ):
            cpu.load_segment(CS, _KERNEL_CS, CODE64)
            cpu.load_segment(SS, _KERNEL_SS, DATA)
            cpu.sync_mode()

    # -- the frame -------------------------------------------------------------------------

    def _enter(
        self,
        domain: Domain,
        address: int,
        masks_events: bool,
        error: int | None,
        what: str | int,
        cs: int | None = None,
        ss: int | None = None,
        handler_cs: int = _KERNEL_CS,
    ) -> None:
        """Build a bounce frame and go on at ``address`` in kernel mode; crash if that cannot be.

        ``what``: a vector, or the name of what has none, for the report. ``cs`` and ``ss``:
        selectors to push, where they are not the CPU's. ``handler_cs`` is for a 32-bit guest's.
        """
        cpu, words, halves = self._cpu, self._words, self._halves
        if address == 0:
            self._hv.crash(domain, f"unhandled {_name(what)}: no handler is registered")
            return
        if domain.width == 32:
            handler = handler_cs, address
            self.entry32.enter(domain, handler, masks_events, error, _name(what), cs, ss)
            return
        flags = cpu.flags
        old_sp = words[RSP]
        if cs is None:
            cs = halves[CS_SELECTOR] & 0xFFFF
        if ss is None:
            ss = halves[SS_SELECTOR] & 0xFFFF
        if domain.kernel_mode:
            sp = old_sp
            cs &= 0xFFFC
        else:
            self.toggle_mode(domain)
            sp = domain.kernel_sp
        sp &= ~15
        mask_at = domain.vcpu_info + UPCALL_MASK
        memory = self._memory.bytes
        mask = memory[mask_at]
        pushed = flags & _NOT_PUSHED
        if not mask:
            pushed |= RFLAGS_IF
        if domain.vm_assist & _ARCHITECTURAL_IOPL:
            pushed |= domain.iopl << _IOPL_SHIFT
        cs |= mask << 32
        rip = words[RIP]
        if error is not None:
            size = 64
            frame = _ERROR_FRAME.pack(words[RCX], words[R11], error, rip, cs, pushed, old_sp, ss)
        else:
            size = 56
            frame = _FRAME.pack(words[RCX], words[R11], rip, cs, pushed, old_sp, ss)
        refused = HYPERVISOR_VIRT_START <= sp < HYPERVISOR_VIRT_END + 60
        sp = (sp - size) & _M64
        guest = self._guest
        try:
            if refused:
                raise GuestFault
            if sp & PAGE_MASK <= PAGE_SIZE - size:
                at = guest.translate(domain, sp, write=True)
                memory[at : at + size] = frame
                self._coherence.wrote(mfn_of(at))
            else:
                guest.write(domain, sp, frame)
        except GuestFault:
            why = f"double fault: the frame of {_name(what)} cannot be written at {sp:#x}"
            self._hv.crash(domain, why)
            return
        if masks_events:
            memory[mask_at] = mask | 1
        flags = flags & ~_CLEARED | RFLAGS_IF
        cpu.flags = flags
        words[RSP] = sp
        words[RIP] = words[RCX] = address
        words[R11] = flags
        self.load_flat()
