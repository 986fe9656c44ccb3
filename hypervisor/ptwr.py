"""Direct writes to page tables: a store to a read-only L1 table, carried out as a checked update.

A guest whose vm_assist has ``writable_pagetables`` may store to its L1 tables as if they were
memory. The store faults, because every mapping of a table is read-only; what the instruction would
have stored is then checked as ``mmu_update`` checks it, and the instruction is finished. Without
that assist the fault is the guest's, but a privileged domain needs none (Xen looks at its faults
anyway, for the sake of devices' pages).

As in Xen: only the kernel's stores, naturally aligned, of 1 to 8 bytes (a smaller one changes its
part of the entry, and the whole is checked); an unlocked read-modify-write that changes nothing
stores nothing; a compare-and-exchange that does not match stores nothing; REP does one iteration a
fault. An entry that is refused changes nothing, registers and flags included: the guest gets the
fault that it had.

Instructions known here: MOV (also of an immediate, and MOVNTI), XCHG, CMPXCHG, XADD, ADD, OR, ADC,
SBB, AND, SUB, XOR, INC, DEC, NOT, NEG, BTS, BTR, BTC, MOVS, STOS. Xen's emulator knows more
(shifts, SETcc, POP, CMPXCHG8B, MOVBE, MOV from a segment register): here those fault. So does
everything outside 64-bit code.

Source: Intel SDM volume 2, chapter 2 and the instructions' pages (encodings, flags). What Xen 4.17
does was read in its emulation of read-only page faults.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from emu.cpu import FS, GS, RAX, RCX, RDI, RIP, RSI
from emu.paging import PTE_MFN_MASK, PTE_P, RFLAGS, RFLAGS_DF
from emu.units import ENTRIES, MFN, PAGE_MASK, PAGE_SHIFT
from hypervisor.abi import DomId
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault

if TYPE_CHECKING:
    from hypervisor.emulate import Emulator
    from hypervisor.hypervisor import Hypervisor

_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
_MAX_LENGTH: Final = 15
_COW: Final = int(DomId.COW)
_CF: Final = RFLAGS.mask("CF")
_PF: Final = RFLAGS.mask("PF")
_AF: Final = RFLAGS.mask("AF")
_ZF: Final = RFLAGS.mask("ZF")
_SF: Final = RFLAGS.mask("SF")
_OF: Final = RFLAGS.mask("OF")
_ARITHMETIC: Final = _CF | _PF | _AF | _ZF | _SF | _OF
_NO_REGISTER: Final = -1
_RIP_RELATIVE: Final = -2

_ALU: Final = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_BITS: Final = {5: "bts", 6: "btr", 7: "btc"}
_PLAIN: Final = {
    0x86: "xchg", 0x87: "xchg", 0x88: "mov", 0x89: "mov",
    0xA4: "movs", 0xA5: "movs", 0xAA: "stos", 0xAB: "stos",
    0x1AB: "bts", 0x1B3: "btr", 0x1BB: "btc",
    0x1B0: "cmpxchg", 0x1B1: "cmpxchg", 0x1C0: "xadd", 0x1C1: "xadd", 0x1C3: "mov",
}  # fmt: skip
_GROUPS: Final = {
    0x80: dict(enumerate(_ALU)), 0x81: dict(enumerate(_ALU)), 0x83: dict(enumerate(_ALU)),
    0xC6: {0: "mov"}, 0xC7: {0: "mov"},
    0xF6: {2: "not", 3: "neg"}, 0xF7: {2: "not", 3: "neg"},
    0xFE: {0: "inc", 1: "dec"}, 0xFF: {0: "inc", 1: "dec"},
    0x1BA: _BITS,
}  # fmt: skip
_ONE_BYTE_IMMEDIATE: Final = frozenset({0x80, 0x83, 0xC6, 0x1BA})
_WIDE_IMMEDIATE: Final = frozenset({0x81, 0xC7})
_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


class Store(NamedTuple):
    """An instruction that stores to memory.

    ``size`` and ``length`` in bytes. ``base`` and ``index_register`` are register numbers, or one
    of the constants for none and RIP. ``immediate`` is None where the source is register ``reg``.
    """

    name: str
    length: int
    size: int
    locked: bool
    repeated: bool
    reg: int
    high_bytes: bool
    """Byte registers 4..7 are AH, CH, DH, BH: there is no REX prefix."""
    immediate: int | None
    base: int
    index_register: int
    scale: int
    displacement: int
    segment: int | None
    address_mask: int


def decode(code: bytes) -> Store | None:
    """The store at the start of 64-bit ``code``, or None if it is none of those known here."""
    code = code[:_MAX_LENGTH]
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    prefixes = code[:at]
    rex = 0
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    opcode = _byte(code, at)
    at += 1
    if opcode == 0x0F:
        opcode = 0x100 | _byte(code, at)
        at += 1
    size = 1
    if opcode & 1 or opcode in (0x1BA, 0x1C3):
        size = 8 if rex & 8 else 2 if 0x66 in prefixes else 4
    reg, base, index, scale, displacement = 0, RDI, _NO_REGISTER, 0, 0
    immediate: int | None = None
    if opcode not in (0xA4, 0xA5, 0xAA, 0xAB):
        modrm = _byte(code, at)
        at += 1
        mod, reg, base = modrm >> 6, modrm >> 3 & 7, modrm & 7
        if mod == 3:
            return None
        if base == 4:
            sib = _byte(code, at)
            at += 1
            base, scale = sib & 7, sib >> 6
            index = sib >> 3 & 7 | (rex & 2) << 2
            if index == 4:
                index = _NO_REGISTER
            no_base = base == 5 and mod == 0
            base = _NO_REGISTER if no_base else base | (rex & 1) << 3
            width = 4 if no_base else (0, 1, 4)[mod]
        elif base == 5 and mod == 0:
            base, width = _RIP_RELATIVE, 4
        else:
            base |= (rex & 1) << 3
            width = (0, 1, 4)[mod]
        displacement = int.from_bytes(code[at : at + width], "little", signed=True)
        at += width
    if opcode in _GROUPS:
        name = _GROUPS[opcode].get(reg)
        width = 1 if opcode in _ONE_BYTE_IMMEDIATE else 0
        if opcode in _WIDE_IMMEDIATE:
            width = min(size, 4)
        if width:
            immediate = int.from_bytes(code[at : at + width], "little", signed=True)
        at += width
    elif opcode < 0x40 and opcode & 7 < 2:
        name = _ALU[opcode >> 3]
    else:
        name = _PLAIN.get(opcode)
    if name is None or name == "cmp" or at > len(code):
        return None
    segments = [byte for byte in prefixes if byte in (0x64, 0x65)]
    return Store(
        name, at, size, 0xF0 in prefixes or name == "xchg",
        name in ("movs", "stos") and (0xF3 in prefixes or 0xF2 in prefixes),
        reg | (rex & 4) << 1, not rex, immediate, base, index, scale, displacement,
        (FS if segments[-1] == 0x64 else GS) if segments else None,
        _M32 if 0x67 in prefixes else _M64,
    )  # fmt: skip


def _byte(code: bytes, at: int) -> int:
    """A byte of the instruction; 0 beyond the end, which ``decode`` notices by the length."""
    return code[at] if at < len(code) else 0


def compute(name: str, old: int, source: int, size: int, flags: int) -> tuple[int, int]:
    """What ``name`` makes of a memory operand and its source, and RFLAGS afterwards.

    ``old`` and ``source`` are unsigned numbers of ``size`` bytes, as is the result.
    """
    bits = 8 * size
    mask = (1 << bits) - 1
    if name == "not":
        return ~old & mask, flags
    if name in ("bts", "btr", "btc"):
        bit = 1 << source % bits
        new = old | bit if name == "bts" else old & ~bit if name == "btr" else old ^ bit
        return new, flags & ~_CF | (_CF if old & bit else 0)
    carry = flags & _CF if name in ("adc", "sbb") else 0
    left, right = old, source
    if name in ("inc", "dec"):
        right = 1
    elif name == "neg":
        left, right = 0, old
    changed = _ARITHMETIC
    wide = left + right + carry
    overflow = ~(left ^ right)
    if name in ("and", "or", "xor"):
        wide = left & right if name == "and" else left | right if name == "or" else left ^ right
        overflow = 0
    elif name in ("sub", "sbb", "dec", "neg"):
        wide = left - right - carry
        overflow = left ^ right
    new = wide & mask
    out = _CF if wide != new else 0
    if name in ("inc", "dec"):
        changed &= ~_CF
        out = 0
    if (overflow & (left ^ new)) >> (bits - 1) & 1:
        out |= _OF
    if name not in ("and", "or", "xor"):
        out |= (left ^ right ^ new) & _AF
    out |= _ZF if new == 0 else 0
    out |= _SF if new >> (bits - 1) else 0
    out |= 0 if (new & 0xFF).bit_count() & 1 else _PF
    return new, flags & ~changed | out


class TableWrites:
    """Carries out stores to L1 tables of the domain that runs."""

    def __init__(self, hv: "Hypervisor", emulator: "Emulator") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words
        self._emulator = emulator

    def emulate(self, domain: Domain, address: int, table: MFN) -> bool:
        """A write to ``address`` was denied, where an L1 table of the domain's is mapped read-only.

        True if the instruction was carried out; False leaves everything as it was.
        """
        if self._cpu.bits != 64:
            return False
        store = decode(self._emulator.fetch(domain, _MAX_LENGTH))
        if store is None:
            return False
        where = self._address(store)
        bit = 0
        if store.name in ("bts", "btr", "btc"):
            where, bit = self._bit(store, where)
        if (where ^ address) & ~PAGE_MASK or where & (store.size - 1):
            return False
        if not self._store(domain, store, table, where & PAGE_MASK, bit):
            return False
        domain.tally["table_writes"] += 1
        return True

    # -- operands --------------------------------------------------------------------------

    def _address(self, store: Store) -> int:
        words = self._words
        where = store.displacement
        if store.base >= 0:
            where += words[store.base]
        elif store.base == _RIP_RELATIVE:
            where += words[RIP] + store.length
        if store.index_register >= 0:
            where += words[store.index_register] << store.scale
        where &= store.address_mask
        if store.segment is not None and store.name not in ("movs", "stos"):
            where += self._cpu.segment_base(store.segment)
        return where & _M64

    def _bit(self, store: Store, where: int) -> tuple[int, int]:
        """Where the bit of a bit instruction is: a register may name one far from the operand."""
        bits = 8 * store.size
        if store.immediate is not None:
            return where, store.immediate % bits
        number = self._register(store)
        if number >> (bits - 1):
            number -= 1 << bits
        return (where + number // bits * store.size) & _M64, number % bits

    def _register(self, store: Store) -> int:
        words = self._words
        if store.size == 1 and store.high_bytes and 4 <= store.reg < 8:
            return words[store.reg - 4] >> 8 & 0xFF
        return words[store.reg] & (1 << 8 * store.size) - 1

    def _set_register(self, reg: int, high_byte: bool, size: int, value: int) -> None:
        """Write part of a register: 1 and 2 bytes keep the rest, 4 clear it."""
        words = self._words
        if high_byte:
            words[reg - 4] = words[reg - 4] & ~0xFF00 | value << 8
        elif size >= 4:
            words[reg] = value
        else:
            words[reg] = words[reg] & ~((1 << 8 * size) - 1) | value

    # -- the store -------------------------------------------------------------------------

    def _store(self, domain: Domain, store: Store, table: MFN, offset: int, bit: int) -> bool:
        """Carry ``store`` out at ``offset`` (bytes) of ``table``, or change nothing."""
        cpu, words = self._cpu, self._words
        name, size = store.name, store.size
        mask = (1 << 8 * size) - 1
        index, shift = offset >> 3, 8 * (offset & 7)
        whole = self._hv.machine.memory.words[table * ENTRIES + index]
        old = whole >> shift & mask
        flags = cpu.flags
        if name == "movs":
            source = self._string_source(domain, store)
            if source is None:
                return False
        elif name == "stos":
            source = words[RAX] & mask
        elif name in ("bts", "btr", "btc"):
            source = bit
        else:
            source = self._register(store) if store.immediate is None else store.immediate & mask
        always = store.locked
        if name in ("mov", "xchg", "movs", "stos"):
            new, always = source, True
        elif name == "cmpxchg":
            accumulator = words[RAX] & mask
            _, flags = compute("sub", accumulator, old, size, flags)
            new = source if accumulator == old else old
            always = accumulator == old
        else:
            new, flags = compute("add" if name == "xadd" else name, old, source, size, flags)
        if (always or new != old) and not self._update(
            domain, table, index, whole & ~(mask << shift) | new << shift
        ):
            return False
        cpu.flags = flags
        if name in ("xchg", "xadd"):
            high = size == 1 and store.high_bytes and 4 <= store.reg < 8
            self._set_register(store.reg, high, size, old)
        elif name == "cmpxchg" and not always:
            self._set_register(RAX, False, size, old)
        length = store.length
        if name in ("movs", "stos"):
            length = self._step(store)
        self._emulator.finish(domain, length)
        return True

    def _update(self, domain: Domain, table: MFN, index: int, new: int) -> bool:
        """Put a whole entry in place if it is one that the domain may have."""
        hv = self._hv
        if new & PTE_P:
            mfn = (new & PTE_MFN_MASK) >> PAGE_SHIFT
            # Other domains' frames are mapped by hypercalls that name their owner.
            if not hv.frames.exists(mfn) or hv.frames.owner[mfn] not in (domain.id, _COW):
                return False
        return hv.paging.update_entry(table, index, new, domain) == 0

    # -- string instructions ---------------------------------------------------------------

    def _string_source(self, domain: Domain, store: Store) -> int | None:
        where = self._words[RSI] & store.address_mask
        if store.segment is not None:
            where += self._cpu.segment_base(store.segment)
        try:
            data = self._hv.guest.read(domain, where & _M64, store.size)
        except GuestFault:
            return None
        return int.from_bytes(data, "little")

    def _step(self, store: Store) -> int:
        """Advance the registers by one iteration; returns how far RIP goes (bytes)."""
        words, mask = self._words, store.address_mask
        step = -store.size if self._cpu.flags & RFLAGS_DF else store.size
        words[RDI] = (words[RDI] + step) & mask
        if store.name == "movs":
            words[RSI] = (words[RSI] + step) & mask
        if not store.repeated:
            return store.length
        words[RCX] = (words[RCX] - 1) & mask
        return 0 if words[RCX] else store.length
