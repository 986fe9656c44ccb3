"""Far calls and jumps through call gates of 32-bit guests, which long mode cannot do by itself.

A call gate in a guest's GDT or LDT has DPL 0 (``descriptors.check_descriptor``), so that using it
is a #GP that names it. For a 32-bit guest the hypervisor then does what the CPU would: from an
outer ring through a gate to the kernel's code it goes to the kernel's registered stack, with the
gate's count of parameters copied; within a ring it pushes CS and EIP; a jump only goes there. For
what the CPU would refuse, the guest gets the CPU's exception. 64-bit guests get the #GP, as in Xen.

Known are far CALL and JMP with an immediate (0x9a, 0xea) or 32-bit addressed operand (0xff /3, /5);
with 16-bit addresses it stays a #GP.

Source: Intel SDM volume 3A, 5.8.3 to 5.8.5; volume 2, CALL and JMP. What Xen 4.17 does was read in
its emulation of gate operations.
"""

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.cpu import CS, CS_SELECTOR, DS, ES, FS, GS, RIP, RSP, SS, SS_SELECTOR
from emu.descriptors import (
    GATE,
    SEGMENT_CODE,
    SEGMENT_CONFORMING,
    SEGMENT_DPL,
    SEGMENT_P,
    SEGMENT_RW,
    SEGMENT_S,
)
from emu.paging import PF_W
from emu.trap import GP, NP, TS
from emu.trap import SS as SS_FAULT
from hypervisor.descriptors import SegmentFault, unpack_segment
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault

if TYPE_CHECKING:
    from hypervisor.emulate import Emulator
    from hypervisor.hypervisor import Hypervisor

_M32: Final = (1 << 32) - 1
_KERNEL_RING: Final = 1
_MAX_LENGTH: Final = 15
_SEGMENTS: Final = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}
_CALL_GATE: Final = 0xC
_DPL_SHIFT: Final = 45


class _Fault(Exception):
    """The exception that the instruction raises instead; ``address`` is a page fault's."""

    def __init__(self, vector: int, error: int, address: int | None = None) -> None:
        super().__init__(vector)
        self.vector, self.error, self.address = vector, error, address


class _Far(NamedTuple):
    """A far instruction: which selector it names, whether it is a jump, and its length."""

    selector: int
    jump: bool
    length: int


class CallGates:
    """Carries out what goes through call gates of the domain that runs."""

    def __init__(self, hv: "Hypervisor", emulator: "Emulator") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words
        self._halves = hv.machine.cpu.halves
        self._emulator = emulator

    def emulate(self, domain: Domain, error: int) -> bool:
        """A #GP that names a selector: True if it was a call gate's and has been dealt with."""
        traps = self._hv.traps
        try:
            return self._through(domain, error)
        except _Fault as fault:
            if fault.address is not None:
                self._cpu.cr2 = fault.address
                traps.page_fault(domain, fault.address, fault.error)
            else:
                traps.exception(domain, fault.vector, fault.error)
        return True

    def _through(self, domain: Domain, error: int) -> bool:
        gate = self._find(domain, error)
        entries = domain.ldt_entries if error & 4 else domain.gdt_entries
        is_gate = GATE.get(gate, "TYPE") == _CALL_GATE and not gate & SEGMENT_S
        if error & 3 or error >> 3 >= entries or not is_gate:
            return False
        target = GATE.get(gate, "SELECTOR")
        ring = self._halves[CS_SELECTOR] & 3
        # The gate's own DPL is kept in the target's RPL.
        if target & 3 < ring:
            return False
        if not gate & SEGMENT_P:
            raise _Fault(NP, error)
        far = self._decode(domain)
        if far is None or far.selector & ~3 != error or target & 3 < far.selector & 3:
            return False
        sel = target & ~3
        code = self._find(domain, sel)
        dpl = code >> _DPL_SHIFT & 3
        is_code = code & (SEGMENT_S | SEGMENT_CODE) == SEGMENT_S | SEGMENT_CODE
        stays = far.jump and not code & SEGMENT_CONFORMING
        if not is_code or (dpl != ring if stays else dpl > ring):
            raise _Fault(GP, sel)
        if not code & SEGMENT_P:
            raise _Fault(NP, sel)
        offset = GATE.get(gate, "OFFSET")
        if offset > unpack_segment(sel, code).limit:
            raise _Fault(GP, 0)
        inward = not far.jump and not code & SEGMENT_CONFORMING and dpl < ring
        new_ring = dpl if inward else ring
        if far.jump:
            stack, sp = self._halves[SS_SELECTOR] & 0xFFFF, self._words[RSP] & _M32
        else:
            count = GATE.get(gate, "COUNT")
            stack, sp = self._call(domain, error, new_ring, inward, count, far.length)
        loaded = self._hv.traps.descriptors.code_and_stack(domain, sel | new_ring, stack, offset)
        if isinstance(loaded, SegmentFault):
            raise _Fault(loaded.vector, loaded.error)
        self._hv.traps.load_code_and_stack(*loaded)
        domain.kernel_mode = new_ring <= _KERNEL_RING
        self._words[RSP] = sp
        self._words[RIP] = offset
        self._emulator.finish(domain, 0)
        return True

    def _find(self, domain: Domain, selector: int) -> int:
        return self._hv.traps.descriptors.find(domain, selector)

    def _call(
        self, domain: Domain, gate: int, ring: int, inward: bool, count: int, length: int
    ) -> tuple[int, int]:
        """Push what a call pushes; the new stack's selector and pointer."""
        words = self._words
        old_ss, old_sp = self._halves[SS_SELECTOR] & 0xFFFF, words[RSP] & _M32
        old_cs = self._halves[CS_SELECTOR] & 0xFFFF
        back = (words[RIP] + length) & _M32
        if not inward:
            base = self._cpu.segment_base(SS)
            return old_ss, self._push(domain, base, old_sp, [old_cs, back])
        if ring != _KERNEL_RING:
            raise _Fault(GP, gate)  # the hypervisor knows no stack of ring 2
        ss = domain.kernel_ss
        stack = self._find(domain, ss)
        need = SEGMENT_S | SEGMENT_RW
        if (
            ss & 3 != ring
            or (stack & SEGMENT_DPL) >> _DPL_SHIFT != ring
            or stack & (need | SEGMENT_CODE) != need
        ):
            raise _Fault(TS, ss & ~3)
        if not stack & SEGMENT_P:
            raise _Fault(SS_FAULT, ss & ~3)
        parameters: tuple[int, ...] = ()
        if count:
            where = (self._cpu.segment_base(SS) + old_sp) & _M32
            raw = self._read(domain, where, 4 * count)
            parameters = struct.unpack(f"<{count}I", raw)
        pushed = [old_ss, old_sp, *reversed(parameters), old_cs, back]
        base = unpack_segment(ss, stack).base
        return ss, self._push(domain, base, domain.kernel_sp & _M32, pushed)

    def _push(self, domain: Domain, base: int, sp: int, values: list[int]) -> int:
        """All of ``values``, or nothing and a #PF."""
        sp = (sp - 4 * len(values)) & _M32
        at = (base + sp) & _M32
        try:
            self._hv.guest.write(domain, at, struct.pack(f"<{len(values)}I", *reversed(values)))
        except GuestFault:
            raise _Fault(GP, PF_W, at) from None
        return sp

    def _read(self, domain: Domain, at: int, length: int) -> bytes:
        try:
            return self._hv.guest.read(domain, at, length)
        except GuestFault:
            raise _Fault(GP, 0, at) from None

    # -- the instruction -------------------------------------------------------------------

    def _decode(self, domain: Domain) -> _Far | None:
        """The far CALL or JMP at EIP; None if it is none of those known here."""
        code = self._emulator.fetch(domain, _MAX_LENGTH)
        at, segment = 0, None
        wide = self._cpu.bits == 32
        size, address32 = (4 if wide else 2), wide
        while at < len(code) and (code[at] in _SEGMENTS or code[at] in (0x66, 0x67)):
            if code[at] == 0x66:
                size = 2 if wide else 4
            elif code[at] == 0x67:
                address32 = not wide
            else:
                segment = _SEGMENTS[code[at]]
            at += 1
        rest = code[at:]
        if not rest:
            return None
        if rest[0] in (0x9A, 0xEA):
            if len(rest) < 3 + size:
                return None
            selector = int.from_bytes(rest[1 + size : 3 + size], "little")
            return _Far(selector, rest[0] == 0xEA, at + 3 + size)
        if rest[0] != 0xFF or len(rest) < 2 or rest[1] >> 3 & 7 not in (3, 5) or not address32:
            return None
        operand = self._operand(rest[1:], segment)
        if operand is None:
            return None
        where, length = operand
        raw = self._read(domain, (where + size) & _M32, 2)
        jump = rest[1] >> 3 & 7 == 5
        return _Far(int.from_bytes(raw, "little"), jump, at + 1 + length)

    def _operand(self, code: bytes, segment: int | None) -> tuple[int, int] | None:
        """Linear address of a 32-bit addressed memory operand, and the bytes that say it."""
        words = self._words
        modrm, at = code[0], 1
        mod, base = modrm >> 6, modrm & 7
        where, default, no_base = 0, DS, base == 5 and mod == 0
        if mod == 3:
            return None
        if base == 4:
            if len(code) < 2:
                return None
            sib, at = code[1], 2
            base = sib & 7
            no_base = base == 5 and mod == 0
            if sib >> 3 & 7 != 4:
                where = words[sib >> 3 & 7] << (sib >> 6)
        if not no_base:
            where += words[base]
            default = SS if base in (4, 5) else DS
        width = 4 if no_base else (0, 1, 4)[mod]
        if len(code) < at + width:
            return None
        where += int.from_bytes(code[at : at + width], "little", signed=True)
        base_address = self._cpu.segment_base(default if segment is None else segment)
        return (where & _M32) + base_address & _M32, at + width
