"""Trap and emulate: the privileged instructions that Xen carries out for a PV guest.

A guest's kernel runs at CPL 3 (with 32 bits at 1), so a privileged instruction raises #GP with
error code 0. Those that Xen 4.17 emulates are emulated; for all others (HLT, INVLPG, LGDT, SWAPGS,
INVD, MOV to CR8...) the #GP is the guest's. The same fault in user mode is the guest's too, except
where the virtual IOPL is 3. CLI and STI, where the virtual IOPL allows them, do nothing: they do
not touch the event mask.

Port I/O that the virtual IOPL allows reads all ones and writes nowhere: no domain has ports. Two
registers keep what was written, as in Xen: 0xcf8 (PCI address) and 0x70 (CMOS index).

The decoder here knows prefixes, one- and two-byte opcodes and register ModRM bytes: no instruction
that is emulated has a memory operand, but for INS and OUTS, whose operand is implicit.

Source: Intel SDM volume 2 (encodings), volume 3A 2.8 and 9.6; volume 4 (MSRs).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.cpu import CS, DS, ES, FS, GS, RAX, RBX, RCX, RDI, RDX, RIP, RSI, SS
from emu.paging import (
    CR0_TS,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_TSD,
    DR6_BS,
    RFLAGS_DF,
    RFLAGS_RF,
    RFLAGS_TF,
)
from emu.trap import DB, GP, UD
from emu.units import PAGE_MASK, PAGE_SIZE, is_canonical
from hypervisor.abi import XEN_EMULATE_PREFIX, Errno, VmAssist
from hypervisor.debugregs import get_debug_register, set_debug_register
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault
from hypervisor.hwbreak import port_bits
from hypervisor.hypercalls.mmu import new_baseptr
from hypervisor.msrs import read_msr, write_msr
from hypervisor.toplevel import cr3_of, mfn_of_cr3

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
_MAX_LENGTH: Final = 15
_CPUID: Final = b"\x0f\xa2"
_RDPMC: Final = b"\x0f\x33"
_CR4_LOADED: Final = CR4_TSD | CR4_DE
"""CR4 bits that a guest sets and clears. It may toggle FSGSBASE too, but only in its own view."""
_CR4_VISIBLE: Final = CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT
"""CR4 bits that it sees as the hypervisor set them."""
_ARCHITECTURAL_IOPL: Final = 1 << VmAssist.architectural_iopl
_MAX_STRING: Final = 4096
"""Iterations of INS or OUTS per trap; the instruction then continues where it is."""
_CF8: Final = 0xCF8
_CMOS_INDEX: Final = 0x70
_ENODEV: Final = -int(Errno.ENODEV)

_SEGMENTS: Final = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}


class Instruction(NamedTuple):
    """What of an instruction matters here. ``opcode``: 0x100 added for the two-byte ones."""

    length: int
    opcode: int
    operand16: bool
    wide: bool
    """REX.W, or 64-bit mode for what needs no prefix there."""
    repeated: bool
    segment: int
    reg: int
    rm: int
    immediate: int
    address_bits: int


@dataclass(slots=True)
class _Devices:
    """What a domain wrote to the ports that remember, and its view of CR4.FSGSBASE."""

    cf8: int = 0
    cmos_index: int = 0
    fsgsbase: int = 0


@dataclass(slots=True)
class _Fault(Exception):
    """The emulated instruction faults with an exception of its own."""

    vector: int
    error: int | None = None
    address: int | None = field(default=None)


def decode(code: bytes, bits: int) -> Instruction | None:
    """The instruction at the start of ``code``, or None if it is none of those emulated here."""
    at = 0
    operand16 = repeated = False
    segment = DS
    address_bits = bits
    while at < len(code):
        byte = code[at]
        if byte == 0x66:
            operand16 = True
        elif byte == 0x67:
            address_bits = 32 if bits == 64 else 48 - bits
        elif byte in (0xF2, 0xF3):
            repeated = True
        elif byte in _SEGMENTS:
            if bits != 64 or byte in (0x64, 0x65):
                segment = _SEGMENTS[byte]
        else:
            break
        at += 1
    rex = 0
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    rest = code[at : at + 4]
    if not rest:
        return None
    opcode, used = rest[0], 1
    reg = rm = immediate = 0
    if opcode == 0x0F and len(rest) > 1:
        opcode, used = 0x100 | rest[1], 2
        if opcode in (0x101, 0x120, 0x121, 0x122, 0x123):
            if len(rest) < 3:
                return None
            modrm, used = rest[2], 3
            if opcode == 0x101 and modrm < 0xC0:
                return None
            reg = modrm >> 3 & 7 | (rex & 4) << 1
            rm = modrm & 7 | (rex & 1) << 3
    elif opcode in (0xE4, 0xE5, 0xE6, 0xE7):
        if len(rest) < 2:
            return None
        immediate, used = rest[1], 2
    length = at + used
    if length > _MAX_LENGTH:
        return None
    return Instruction(
        length, opcode, operand16 != (bits == 16), bool(rex & 8), repeated, segment, reg, rm,
        immediate, address_bits,
    )  # fmt: skip


class Emulator:
    """Carries out privileged instructions of the domain that runs."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words
        self._devices: dict[int, _Devices] = {}
        self._port_bits = 0
        """Bits of DR6 for the port that the instruction in hand accesses."""

    def forget(self, domain: Domain) -> None:
        """A domain is gone."""
        self._devices.pop(domain.id, None)

    # -- entry -----------------------------------------------------------------------------

    def privileged(self, domain: Domain) -> bool:
        """A #GP with error code 0, or port I/O: True if the instruction was dealt with."""
        code = self.fetch(domain, _MAX_LENGTH)
        instruction = decode(code, self._cpu.bits)
        if instruction is None:
            return False
        try:
            if not self._execute(domain, instruction):
                return False
        except _Fault as fault:
            if fault.address is not None:
                self._cpu.cr2 = fault.address
                self._hv.traps.page_fault(domain, fault.address, fault.error or 0)
            else:
                self._hv.traps.exception(domain, fault.vector, fault.error)
        return True

    def forced(self, domain: Domain) -> bool:
        """A #UD: True if it was ``ud2; "xen"; cpuid``, which is answered in either mode."""
        wanted = XEN_EMULATE_PREFIX + _CPUID
        if self.fetch(domain, len(wanted)) != wanted:
            return False
        words = self._words
        result = self._hv.traps.cpuid(words[RAX] & _M32, words[RCX] & _M32)
        words[RAX], words[RBX], words[RCX], words[RDX] = result
        self.finish(domain, len(wanted))
        return True

    def is_rdpmc(self, domain: Domain) -> bool:
        """True at RDPMC, for which the engine raises #UD where CR4.PCE = 0 means #GP(0)."""
        return self.fetch(domain, len(_RDPMC)) == _RDPMC

    def fetch(self, domain: Domain, wanted: int) -> bytes:
        """Up to ``wanted`` bytes of code at RIP; fewer if the rest is not mapped."""
        va = self._words[RIP]
        if self._cpu.bits != 64:
            va = (va + self._cpu.segment_base(CS)) & _M32
        guest = self._hv.guest
        here = min(wanted, PAGE_SIZE - (va & PAGE_MASK))
        try:
            code = guest.read(domain, va, here)
        except GuestFault:
            return b""
        if here < wanted:
            try:
                code += guest.read(domain, (va + here) & _M64, wanted - here)
            except GuestFault:
                return code
        return code

    def finish(self, domain: Domain, length: int) -> None:
        """Go on behind the instruction; a single step ends here as it would in hardware."""
        words = self._words
        words[RIP] = (words[RIP] + length) & (_M64 if self._cpu.bits == 64 else _M32)
        flags = self._cpu.flags
        self._cpu.flags = flags & ~RFLAGS_RF
        bits, self._port_bits = self._port_bits, 0
        if flags & RFLAGS_TF:
            bits |= DR6_BS
        if bits:
            domain.debug_registers[6] |= bits
            self._hv.traps.exception(domain, DB, None)

    def io_allowed(self, domain: Domain) -> bool:
        """True if the virtual IOPL allows CLI, STI and port I/O in the present mode."""
        if not domain.kernel_mode:
            return domain.iopl >= 3
        return domain.iopl >= (0 if domain.vm_assist & _ARCHITECTURAL_IOPL else 1)

    # -- instructions ----------------------------------------------------------------------

    def _execute(self, domain: Domain, i: Instruction) -> bool:
        """Carry one instruction out; False if the guest gets the #GP."""
        self._port_bits = 0
        opcode = i.opcode
        if opcode in (0x6C, 0x6D, 0x6E, 0x6F):
            return self.io_allowed(domain) and self._string_io(domain, i)
        if opcode & ~0xB == 0xE4:
            if not self.io_allowed(domain):
                return False
            self._port_io(domain, i)
        elif opcode in (0xFA, 0xFB):
            if not self.io_allowed(domain):
                return False
        elif opcode in (0x131, 0x101):
            if not self._timestamp(domain, i):
                return False
        elif not domain.kernel_mode:
            return False
        elif opcode == 0x106:
            self._task_switched(domain, False)
        elif opcode == 0x109:
            pass  # WBINVD: nothing here caches, and Xen ignores it too
        elif opcode in (0x120, 0x122):
            if not self._control_register(domain, i):
                return False
        elif opcode in (0x121, 0x123):
            self._debug_register(domain, i)
        elif opcode in (0x130, 0x132):
            if not self._msr(domain, opcode == 0x130):
                return False
        else:
            return False
        if domain.exit is None:
            self.finish(domain, i.length)
        return True

    def _timestamp(self, domain: Domain, i: Instruction) -> bool:
        """RDTSC and RDTSCP under CR4.TSD: the kernel is let through."""
        precise = i.opcode == 0x101 and i.reg & 7 == 7 and i.rm & 7 == 1
        if i.opcode == 0x101 and not precise:
            return False
        if not domain.kernel_mode and self._cpu.cr4 & CR4_TSD:
            return False
        now = self._hv.machine.on_tsc()
        self._words[RAX], self._words[RDX] = now & _M32, now >> 32 & _M32
        if precise:
            self._words[RCX] = domain.tsc_aux
        return True

    def _task_switched(self, domain: Domain, on: bool) -> None:
        domain.cr0_ts = on
        self._cpu.set_task_switched(on)

    def _control_register(self, domain: Domain, i: Instruction) -> bool:
        cpu, words = self._cpu, self._words
        mask = _M64 if cpu.bits == 64 else _M32
        if i.opcode == 0x120:
            if i.reg == 0:
                value = cpu.cr0
            elif i.reg == 2:
                value = cpu.cr2
            elif i.reg == 3:
                value = cr3_of(domain)
            elif i.reg == 4:
                value = cpu.cr4 & (_CR4_LOADED | _CR4_VISIBLE) | self._device(domain).fsgsbase
            else:
                return False
            words[i.rm] = value & mask
            return True
        value = words[i.rm] & mask
        if i.reg == 0:
            if (value ^ cpu.cr0) & ~CR0_TS:
                return False
            self._task_switched(domain, bool(value & CR0_TS))
        elif i.reg == 2:
            cpu.cr2 = value
            self._hv.traps.set_cr2(domain, value)
        elif i.reg == 3:
            return new_baseptr(self._hv, domain, domain, mfn_of_cr3(domain, value), 0) == 0
        elif i.reg == 4:
            cpu.cr4 = cpu.cr4 & ~_CR4_LOADED | value & _CR4_LOADED
            self._device(domain).fsgsbase = value & CR4_FSGSBASE
        else:
            return False
        return True

    def _debug_register(self, domain: Domain, i: Instruction) -> None:
        words = self._words
        extensions = bool(self._cpu.cr4 & CR4_DE)
        if i.opcode == 0x121:
            value = get_debug_register(domain, i.reg, extensions)
            if value is None:
                raise _Fault(UD)
            words[i.rm] = value
            return
        answer = set_debug_register(domain, i.reg, words[i.rm], extensions)
        if answer == _ENODEV:
            raise _Fault(UD)
        if answer:
            raise _Fault(GP, 0)
        self._hv.breakpoints.arm(domain)

    def _msr(self, domain: Domain, write: bool) -> bool:
        words = self._words
        number = words[RCX] & _M32
        if write:
            value = (words[RDX] & _M32) << 32 | words[RAX] & _M32
            return write_msr(self._hv, number, value)
        read = read_msr(self._hv, number)
        if read is None:
            return False
        words[RAX], words[RDX] = read & _M32, read >> 32
        return True

    # -- ports -----------------------------------------------------------------------------

    def _device(self, domain: Domain) -> _Devices:
        return self._devices.setdefault(domain.id, _Devices())

    def _read_port(self, domain: Domain, port: int, size: int) -> int:
        if port == _CF8 and size == 4:
            return self._device(domain).cf8
        if port == _CMOS_INDEX:
            return self._device(domain).cmos_index | 0xFFFF_FF00 & (1 << 8 * size) - 1
        return (1 << 8 * size) - 1

    def _write_port(self, domain: Domain, port: int, size: int, value: int) -> None:
        if port == _CF8 and size == 4:
            self._device(domain).cf8 = value & _M32
        elif port == _CMOS_INDEX:
            self._device(domain).cmos_index = value & 0xFF

    def _port_io(self, domain: Domain, i: Instruction) -> None:
        words = self._words
        size = 1 if not i.opcode & 1 else 2 if i.operand16 else 4
        port = words[RDX] & 0xFFFF if i.opcode & 8 else i.immediate
        self._port_bits = port_bits(domain, port, size)
        if i.opcode & 2:
            self._write_port(domain, port, size, words[RAX] & (1 << 8 * size) - 1)
            return
        value = self._read_port(domain, port, size)
        if size == 4:
            words[RAX] = value
        else:
            keep = _M64 & ~((1 << 8 * size) - 1)
            words[RAX] = words[RAX] & keep | value

    def _string_io(self, domain: Domain, i: Instruction) -> bool:
        """INS and OUTS, with REP as far as ``_MAX_STRING`` iterations."""
        words, cpu = self._words, self._cpu
        size = 1 if not i.opcode & 1 else 2 if i.operand16 else 4
        mask = (1 << i.address_bits) - 1
        inward = not i.opcode & 2
        index = RDI if inward else RSI
        segment = ES if inward else i.segment
        base = cpu.segment_base(segment) if cpu.bits != 64 or segment in (FS, GS) else 0
        step = -size if cpu.flags & RFLAGS_DF else size
        left = words[RCX] & mask if i.repeated else 1
        port = words[RDX] & 0xFFFF
        self._port_bits = port_bits(domain, port, size)
        self._hv.spend(min(left, _MAX_STRING))
        for _ in range(min(left, _MAX_STRING)):
            va = (base + (words[index] & mask)) & (_M64 if cpu.bits == 64 else _M32)
            if not is_canonical(va):
                raise _Fault(GP, 0)
            try:
                if inward:
                    data = self._read_port(domain, port, size).to_bytes(size, "little")
                    self._hv.guest.write(domain, va, data)
                else:
                    data = self._hv.guest.read(domain, va, size)
                    self._write_port(domain, port, size, int.from_bytes(data, "little"))
            except GuestFault:
                raise _Fault(GP, 2 if inward else 0, va) from None
            words[index] = self._merge(words[index], words[index] + step, i.address_bits)
            if i.repeated:
                words[RCX] = self._merge(words[RCX], words[RCX] - 1, i.address_bits)
            left -= 1
        if left <= 0:
            self.finish(domain, i.length)
        return True

    @staticmethod
    def _merge(old: int, new: int, bits: int) -> int:
        """``new`` in a register of ``bits``: 16 keep the rest, 32 clear it."""
        if bits == 16:
            return old & ~0xFFFF & _M64 | new & 0xFFFF
        return new & ((1 << bits) - 1)
