"""Instructions that store to memory: what their bytes mean, and what they make of their operands.

Known here: MOV (also of an immediate, MOVNTI, MOVBE), XCHG, CMPXCHG, CMPXCHG8B and 16B, XADD, ADD,
OR, ADC, SBB, AND, SUB, XOR, INC, DEC, NOT, NEG, BTS, BTR, BTC, the shifts and rotates, SHLD, SHRD,
SETcc, POP, MOVS, STOS. Not known are MOV of a segment register, the x87's and SSE's stores, and
those to the stack or from a port.

``decode`` says None for everything else, and for 16-bit addresses.

Source: Intel SDM volume 2, chapter 2 and the instructions' pages (encodings, flags).
"""

from typing import Final, NamedTuple

from emu.cpu import DS, ES, FS, GS, RBP, RCX, RDI, RSP, SS
from emu.paging import RFLAGS

MAX_LENGTH: Final = 15
NO_REGISTER: Final = -1
RIP_RELATIVE: Final = -2
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
CF: Final = RFLAGS.mask("CF")
PF: Final = RFLAGS.mask("PF")
AF: Final = RFLAGS.mask("AF")
ZF: Final = RFLAGS.mask("ZF")
SF: Final = RFLAGS.mask("SF")
OF: Final = RFLAGS.mask("OF")
_ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF

_ALU: Final = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
SHIFTS: Final = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")
BIT_OPERATIONS: Final = ("bts", "btr", "btc")
DOUBLE_SHIFTS: Final = ("shld", "shrd")
STRINGS: Final = ("movs", "stos")
_PLAIN: Final = {
    0x86: "xchg", 0x87: "xchg", 0x88: "mov", 0x89: "mov",
    0xA4: "movs", 0xA5: "movs", 0xAA: "stos", 0xAB: "stos",
    0x1A4: "shld", 0x1A5: "shld", 0x1AC: "shrd", 0x1AD: "shrd",
    0x1AB: "bts", 0x1B3: "btr", 0x1BB: "btc",
    0x1B0: "cmpxchg", 0x1B1: "cmpxchg", 0x1C0: "xadd", 0x1C1: "xadd", 0x1C3: "mov",
    0x2F1: "movbe",
} | {0x190 + condition: "set" for condition in range(16)}  # fmt: skip
_SHIFT_GROUP: Final = dict(enumerate(SHIFTS))
_GROUPS: Final = {
    0x80: dict(enumerate(_ALU)), 0x81: dict(enumerate(_ALU)), 0x83: dict(enumerate(_ALU)),
    0x82: dict(enumerate(_ALU)), 0x8F: {0: "pop"},
    0xC0: _SHIFT_GROUP, 0xC1: _SHIFT_GROUP, 0xD0: _SHIFT_GROUP, 0xD1: _SHIFT_GROUP,
    0xD2: _SHIFT_GROUP, 0xD3: _SHIFT_GROUP,
    0xC6: {0: "mov"}, 0xC7: {0: "mov"},
    0xF6: {2: "not", 3: "neg"}, 0xF7: {2: "not", 3: "neg"},
    0xFE: {0: "inc", 1: "dec"}, 0xFF: {0: "inc", 1: "dec"},
    0x1BA: {5: "bts", 6: "btr", 7: "btc"}, 0x1C7: {1: "cmpxchg8b"},
}  # fmt: skip
_ONE_BYTE_IMMEDIATE: Final = frozenset({0x80, 0x82, 0x83, 0xC0, 0xC1, 0xC6, 0x1A4, 0x1AC, 0x1BA})
_WIDE_IMMEDIATE: Final = frozenset({0x81, 0xC7})
_NO_MODRM: Final = frozenset({0xA4, 0xA5, 0xAA, 0xAB})
_WORDS: Final = frozenset({0x8F, 0x1A4, 0x1AC, 0x1BA, 0x1C3})
"""Opcodes whose lowest bit does not say whether the operand is a byte: it never is."""
_BYTES: Final = frozenset(range(0x190, 0x1A0))
"""Opcodes whose operand is a byte whatever that bit says."""
_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_OVERRIDES: Final = {0x64: FS, 0x65: GS}
_OVERRIDES_32: Final = {0x26: ES, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}


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
    """The segment whose base counts; None where it is always 0."""
    address_mask: int
    by_cl: bool = False
    """A shift by CL."""
    condition: int = 0
    """Of SETcc."""


def decode(code: bytes, bits: int = 64) -> Store | None:
    """The store at the start of ``code`` for a code segment of 64 or 32 ``bits``; None if it is
    none of those known here."""
    code = code[:MAX_LENGTH]
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    prefixes = code[:at]
    rex = 0
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    opcode = _byte(code, at)
    at += 1
    if opcode == 0x0F:
        opcode = 0x100 | _byte(code, at)
        at += 1
        if opcode == 0x138:
            opcode = 0x200 | _byte(code, at)
            at += 1
    size = _size(opcode, rex, prefixes, bits)
    reg, base, index, scale, displacement = 0, RDI, NO_REGISTER, 0, 0
    immediate: int | None = None
    if opcode not in _NO_MODRM:
        if 0x67 in prefixes and bits == 32:
            return None
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
                index = NO_REGISTER
            no_base = base == 5 and mod == 0
            base = NO_REGISTER if no_base else base | (rex & 1) << 3
            width = 4 if no_base else (0, 1, 4)[mod]
        elif base == 5 and mod == 0:
            base, width = RIP_RELATIVE if bits == 64 else NO_REGISTER, 4
        else:
            base |= (rex & 1) << 3
            width = (0, 1, 4)[mod]
        displacement = int.from_bytes(code[at : at + width], "little", signed=True)
        at += width
    if opcode in _GROUPS:
        name = _GROUPS[opcode].get(reg)
    elif opcode < 0x40 and opcode & 7 < 2:
        name = _ALU[opcode >> 3]
    else:
        name = _PLAIN.get(opcode)
    width = 1 if opcode in _ONE_BYTE_IMMEDIATE else 0
    if opcode in _WIDE_IMMEDIATE:
        width = min(size, 4)
    if width:
        immediate = int.from_bytes(code[at : at + width], "little", signed=True)
    at += width
    if opcode in (0xD0, 0xD1):
        immediate = 1
    if opcode == 0x1C7 and rex & 8:
        name = "cmpxchg16b" if name else None
    if name is None or name == "cmp" or at > len(code) or not _possible(opcode, prefixes, bits):
        return None
    return Store(
        name, at, size, 0xF0 in prefixes or name == "xchg",
        name in STRINGS and (0xF3 in prefixes or 0xF2 in prefixes),
        reg | (rex & 4) << 1, not rex, immediate, base, index, scale, displacement,
        _segment(name, base, prefixes, bits),
        _M32 if 0x67 in prefixes or bits == 32 else _M64,
        opcode in (0xD2, 0xD3, 0x1A5, 0x1AD), opcode & 0xF,
    )  # fmt: skip


def _size(opcode: int, rex: int, prefixes: bytes, bits: int) -> int:
    """Bytes that the instruction stores."""
    if opcode == 0x1C7:
        return 16 if rex & 8 else 8
    if opcode in _BYTES or not (opcode & 1 or opcode in _WORDS):
        return 1
    if opcode == 0x8F:
        return 2 if 0x66 in prefixes else bits // 8
    return 8 if rex & 8 else 2 if 0x66 in prefixes else 4


def _possible(opcode: int, prefixes: bytes, bits: int) -> bool:
    """False for what the bytes would be but for the mode or a prefix."""
    if opcode == 0x82:
        return bits == 32
    return opcode != 0x2F1 or 0xF2 not in prefixes  # that is CRC32


def _segment(name: str, base: int, prefixes: bytes, bits: int) -> int | None:
    known = _OVERRIDES if bits == 64 else _OVERRIDES_32
    overrides = [known[byte] for byte in prefixes if byte in known]
    if overrides:
        return overrides[-1]
    if bits == 64:
        return None
    return SS if base in (RSP, RBP) and name not in STRINGS else DS


def _byte(code: bytes, at: int) -> int:
    """A byte of the instruction; 0 beyond the end, which ``decode`` notices by the length."""
    return code[at] if at < len(code) else 0


def condition_holds(condition: int, flags: int) -> bool:
    """Whether condition code ``condition`` (0..15) holds (SDM volume 2, appendix B.1.4.7)."""
    less = bool(flags & SF) != bool(flags & OF)
    holds = (
        bool(flags & OF),
        bool(flags & CF),
        bool(flags & ZF),
        bool(flags & (CF | ZF)),
        bool(flags & SF),
        bool(flags & PF),
        less,
        less or bool(flags & ZF),
    )[condition >> 1]
    return holds != bool(condition & 1)


def compute(name: str, old: int, source: int, size: int, flags: int) -> tuple[int, int]:
    """What ``name`` makes of a memory operand and its source, and RFLAGS afterwards.

    ``old`` and ``source`` are unsigned numbers of ``size`` bytes, as is the result. Of a shift
    ``source`` is the count.
    """
    bits = 8 * size
    mask = (1 << bits) - 1
    if name == "not":
        return ~old & mask, flags
    if name in BIT_OPERATIONS:
        bit = 1 << source % bits
        new = old | bit if name == "bts" else old & ~bit if name == "btr" else old ^ bit
        return new, flags & ~CF | (CF if old & bit else 0)
    if name in SHIFTS:
        return _shift(name, old, source, bits, flags)
    carry = flags & CF if name in ("adc", "sbb") else 0
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
    out = CF if wide != new else 0
    if name in ("inc", "dec"):
        changed &= ~CF
        out = 0
    if (overflow & (left ^ new)) >> (bits - 1) & 1:
        out |= OF
    if name not in ("and", "or", "xor"):
        out |= (left ^ right ^ new) & AF
    out |= _result_flags(new, bits)
    return new, flags & ~changed | out


def _result_flags(new: int, bits: int) -> int:
    """ZF, SF and PF of a result."""
    out = ZF if new == 0 else 0
    out |= SF if new >> (bits - 1) else 0
    return out | (0 if (new & 0xFF).bit_count() & 1 else PF)


def _shift(name: str, old: int, count: int, bits: int, flags: int) -> tuple[int, int]:
    """Shifts and rotates; by nothing they change nothing, flags included.

    OF is right for shifts by 1 and undefined for others, as is AF.
    """
    mask = (1 << bits) - 1
    count &= 63 if bits == 64 else 31
    if count == 0:
        return old, flags
    if name in ("rcl", "rcr"):
        return _rotate_through_carry(name, old, count, bits, flags)
    if name in ("rol", "ror"):
        turn = count % bits if name == "rol" else -count % bits
        new = (old << turn | old >> (bits - turn)) & mask
        top = new >> (bits - 1)
        carry = new & 1 if name == "rol" else top
        overflow = top ^ carry if name == "rol" else top ^ (new >> (bits - 2) & 1)
        return new, flags & ~(CF | OF) | (CF if carry else 0) | (OF if overflow else 0)
    if name in ("shl", "sal"):
        new = old << count & mask
        carry = old << count >> bits & 1
        overflow = new >> (bits - 1) ^ carry
    else:
        signed = old - (1 << bits) if name == "sar" and old >> (bits - 1) else old
        new = signed >> count & mask
        carry = signed >> (count - 1) & 1
        overflow = old >> (bits - 1) if name == "shr" else 0
    out = _result_flags(new, bits) | (CF if carry else 0) | (OF if overflow else 0)
    return new, flags & ~(_ARITHMETIC & ~AF) | out


def _rotate_through_carry(
    name: str, old: int, count: int, bits: int, flags: int
) -> tuple[int, int]:
    wide = bits + 1
    count %= wide
    value = old | (1 << bits if flags & CF else 0)
    turn = count if name == "rcl" else (wide - count) % wide
    value = (value << turn | value >> (wide - turn)) & ((1 << wide) - 1)
    new, carry = value & ((1 << bits) - 1), value >> bits
    if name == "rcl":
        overflow = new >> (bits - 1) ^ carry
    else:
        overflow = new >> (bits - 1) ^ (new >> (bits - 2) & 1)
    return new, flags & ~(CF | OF) | (CF if carry else 0) | (OF if overflow else 0)


def double_shift(
    name: str, old: int, source: int, count: int, size: int, flags: int
) -> tuple[int, int]:
    """SHLD and SHRD: ``old`` moves, bits of ``source`` come in. By nothing they change nothing."""
    bits = 8 * size
    mask = (1 << bits) - 1
    count &= 63 if bits == 64 else 31
    if count == 0:
        return old, flags
    if name == "shld":
        wide = (old << bits | source) << count
        new = wide >> bits & mask
        carry = wide >> (2 * bits) & 1
    else:
        wide = source << bits | old
        new = wide >> count & mask
        carry = wide >> (count - 1) & 1
    overflow = (new ^ old) >> (bits - 1) & 1
    out = _result_flags(new, bits) | (CF if carry else 0) | (OF if overflow else 0)
    return new, flags & ~(_ARITHMETIC & ~AF) | out


def count_of(store: Store, registers: memoryview) -> int:
    """By how much a shift shifts."""
    return registers[RCX] & 0xFF if store.by_cl else (store.immediate or 0) & 0xFF
