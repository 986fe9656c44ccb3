"""How a 32-bit guest's kernel is entered: bounce frames of ring 1, and the way back (``iret``).

The guest runs in compatibility mode: its kernel in ring 1, its processes in ring 3 (ring 2 counts
as a process). It changes between them as it likes (``iret``, far jumps and returns work as on the
bare CPU), so that which it is in is read from the CPU at every trap. One address space serves
both. A handler is entered through a frame on the kernel's stack, upward from ESP::

    [error]  eip  cs | mask << 16  eflags  [esp  ss]

From an outer ring the frame starts at the registered ``kernel_ss:kernel_sp`` and ends with the old
stack; within ring 1 it is pushed on the stack in use. EFLAGS.IF is the virtual one. Handlers run on
the code segment that they were registered with.

``iret`` finds, from ESP upward, ``eax eip cs eflags`` and, to an outer ring, ``esp ss``.

A frame that cannot be written, a null code selector or a stack segment that cannot be loaded end
the domain with a report. Segments that IRET refuses are the guest's #GP, #NP or #SS.

Segment limits are not enforced by the engine: a frame beyond the limit of the stack segment is
written all the same, if it is mapped.

Source: arch-x86/xen-x86_32.h; Intel SDM volume 3A, 6.12 and 6.13, volume 2 IRET. What Xen 4.17 does
beyond its headers was read in its source (its build for this machine has no 32-bit guests).
"""

import struct
from typing import TYPE_CHECKING, Final

from emu.cpu import CS_SELECTOR, RAX, RIP, RSP, SS, SS_SELECTOR
from emu.paging import (
    RFLAGS_FIXED,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_NT,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VM,
)
from hypervisor.abi import Flat32, VmAssist
from hypervisor.descriptors import RING1_CS, RING1_DS, SegmentFault, unpack_segment
from hypervisor.domain import Callback, Domain, TrapEntry
from hypervisor.errors import GuestFault
from hypervisor.sharedinfo import UPCALL_MASK

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_M32: Final = (1 << 32) - 1
_KERNEL_CS: Final = int(Flat32.KERNEL_CS)
_KERNEL_SS: Final = int(Flat32.KERNEL_SS)
_USER_SS: Final = int(Flat32.USER_SS)
_FLAT: Final = unpack_segment(_KERNEL_CS, RING1_CS), unpack_segment(_KERNEL_SS, RING1_DS)
_CLEARED: Final = RFLAGS_VM | RFLAGS_RF | RFLAGS_NT | RFLAGS_TF | RFLAGS_IOPL
_NOT_PUSHED: Final = ~(RFLAGS_IF | RFLAGS_IOPL)
_EFLAGS_WRITABLE: Final = 0x003F_7FD7 & ~(RFLAGS_IOPL | RFLAGS_VM | RFLAGS_NT)
_IOPL_SHIFT: Final = 12
_ARCHITECTURAL_IOPL: Final = 1 << VmAssist.architectural_iopl
_KERNEL_RING: Final = 1
_GP: Final = 13
_VM86_FRAME: Final = 40
"""Bytes of a frame of virtual-8086 mode, with EAX: what Xen moves to the kernel's stack."""
_MOST_REFUSED: Final = 4
"""Handlers whose segments are refused, one after the other, before the domain is given up."""


class Entry32:
    """Builds frames of 32-bit guests and goes back by them."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words
        self._halves = hv.machine.cpu.halves
        self._memory = hv.machine.memory
        self._refused = 0

    def note_mode(self, domain: Domain) -> None:
        """The CPU left guest code: which mode was it in?"""
        domain.kernel_mode = self._cpu.cpl <= _KERNEL_RING

    def enter(
        self,
        domain: Domain,
        handler: tuple[int, int],
        masks_events: bool,
        error: int | None,
        what: str,
        cs: int | None,
        ss: int | None,
    ) -> None:
        """Build a bounce frame and go on at ``handler`` (CS, EIP) in ring 1.

        ``what``: the trap, for the report. ``cs`` and ``ss``: selectors to push, where they are not
        the CPU's.
        """
        cpu, words, halves = self._cpu, self._words, self._halves
        kernel_cs, address = handler
        flags = cpu.flags
        old_sp = words[RSP] & _M32
        cs = halves[CS_SELECTOR] & 0xFFFF if cs is None else cs
        ss = halves[SS_SELECTOR] & 0xFFFF if ss is None else ss
        outer: tuple[int, ...] = ()
        sp, base, kernel_ss = old_sp, cpu.segment_base(SS), ss
        if not domain.kernel_mode:
            outer = old_sp, ss
            sp, kernel_ss = domain.kernel_sp, domain.kernel_ss
            base = unpack_segment(kernel_ss, self._stack(domain, kernel_ss)).base
            domain.kernel_mode = True
        mask_at = domain.vcpu_info + UPCALL_MASK
        mask = self._memory.bytes[mask_at]
        pushed = flags & _NOT_PUSHED
        if not mask:
            pushed |= RFLAGS_IF
        if domain.vm_assist & _ARCHITECTURAL_IOPL:
            pushed |= domain.iopl << _IOPL_SHIFT
        frame = (words[RIP] & _M32, cs | mask << 16, pushed & _M32, *outer)
        if error is not None:
            frame = (error, *frame)
        sp = (sp - 4 * len(frame)) & _M32
        if kernel_cs & ~3 == 0 or kernel_ss & ~3 == 0:
            self._hv.crash(domain, f"the handler of {what} has a null segment")
            return
        try:
            self._hv.guest.write(domain, (base + sp) & _M32, struct.pack(f"<{len(frame)}I", *frame))
        except GuestFault:
            why = f"double fault: the frame of {what} cannot be written at {sp:#x}"
            self._hv.crash(domain, why)
            return
        if masks_events:
            self._memory.bytes[mask_at] = mask | 1
        cpu.flags = flags & ~_CLEARED | RFLAGS_IF
        words[RSP] = sp
        words[RIP] = address & _M32
        self._load(domain, kernel_cs, kernel_ss)

    def sysenter(self, domain: Domain, callback: Callback | None, gate: TrapEntry | None) -> None:
        """SYSENTER, which keeps no return address: the callback, or without one #GP's ``gate``.

        A null code selector of the callback means that of the gate.
        """
        domain.kernel_mode = False  # CS is that of the outermost ring now
        gate_cs = 0 if gate is None else gate.cs
        error: int | None = None
        if callback is not None and callback.address:
            handler = callback.cs if callback.cs & ~3 else gate_cs, int(callback.address)
            masks = callback.masks_events
        elif gate is not None:
            handler, masks, error = (gate_cs, int(gate.address)), gate.masks_events, 0
        else:
            self._hv.crash(domain, "unhandled sysenter: no handler is registered")
            return
        self.enter(domain, handler, masks, error, "sysenter", 3, _USER_SS)

    def _stack(self, domain: Domain, selector: int) -> int:
        return self._hv.traps.descriptors.find(domain, selector)

    def _load(self, domain: Domain, cs: int, ss: int) -> None:
        """Load CS and SS as IRET would; what it refuses is the guest's exception."""
        traps = self._hv.traps
        if cs == _KERNEL_CS and ss == _KERNEL_SS:
            traps.load_code_and_stack(*_FLAT)
            return
        loaded = traps.descriptors.code_and_stack(domain, cs, ss, self._words[RIP])
        if not isinstance(loaded, SegmentFault):
            traps.load_code_and_stack(*loaded)
            return
        domain.kernel_mode = cs & 3 == _KERNEL_RING
        self._refused += 1
        if self._refused > _MOST_REFUSED:
            self._hv.crash(domain, f"no handler can be entered: CS {cs:#x}, SS {ss:#x}")
        else:
            traps.exception(domain, loaded.vector, loaded.error, cs, ss)
        self._refused -= 1

    # -- back ------------------------------------------------------------------------------

    def iret(self, domain: Domain) -> None:
        """Go on where the frame at ESP says (the ``iret`` hypercall)."""
        cpu, words = self._cpu, self._words
        base, sp = cpu.segment_base(SS), words[RSP] & _M32
        read = self._hv.guest.read
        try:
            raw = read(domain, (base + sp) & _M32, 16)
            eax, eip, cs, eflags = struct.unpack("<4I", raw)
            cs &= 0xFFFF
            ring = cs & 3
            ss, esp = cpu.selector(SS), (sp + 16) & _M32
            if ring > _KERNEL_RING and not eflags & RFLAGS_VM:
                esp, ss = struct.unpack("<2I", read(domain, (base + esp) & _M32, 8))
        except GuestFault:
            self._hv.crash(domain, f"iret: the frame at {sp:#x} cannot be read")
            return
        if domain.vm_assist & _ARCHITECTURAL_IOPL:
            domain.iopl = (eflags & RFLAGS_IOPL) >> _IOPL_SHIFT
        if eflags & RFLAGS_VM:
            self._refuse_vm86(domain, sp, base, eflags)
            return
        if ring == 0:
            self._hv.crash(domain, f"iret to ring 0 (CS {cs:#x})")
            return
        cpu.flags = eflags & _EFLAGS_WRITABLE | RFLAGS_IF | RFLAGS_FIXED
        words[RAX] = eax
        words[RSP] = esp
        words[RIP] = eip
        self._hv.traps.set_upcall_mask(domain, not eflags & RFLAGS_IF)
        domain.kernel_mode = ring == _KERNEL_RING
        self._load(domain, cs, ss & 0xFFFF)

    def _refuse_vm86(self, domain: Domain, sp: int, base: int, eflags: int) -> None:
        """There is no virtual-8086 mode: #GP(0), with the frame as if that mode had raised it."""
        guest, words = self._hv.guest, self._words
        to = (domain.kernel_sp - _VM86_FRAME) & _M32
        gate = domain.trap_table.get(_GP)
        try:
            raw = guest.read(domain, (base + sp) & _M32, _VM86_FRAME)
            guest.write(domain, to, bytes(4) + raw[4:])
        except GuestFault:
            self._hv.crash(domain, "iret to virtual-8086 mode, and no room for its #GP")
            return
        if gate is None:
            self._hv.crash(domain, "iret to virtual-8086 mode: unhandled #GP")
            return
        masked = not eflags & RFLAGS_IF or gate.masks_events
        self._cpu.flags = eflags & _EFLAGS_WRITABLE & ~_CLEARED | RFLAGS_IF | RFLAGS_FIXED
        words[RSP], words[RIP] = to, gate.address & _M32
        self._hv.traps.set_upcall_mask(domain, masked)
        self._load(domain, gate.cs, domain.kernel_ss)
