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
fault that it had. A 32-bit guest that stores the upper half of an entry first has its present bit
taken away if the halves do not go together: the lower half follows, with the bit.

The instructions are those of ``stores``. Xen's emulator knows some more that nobody writes tables
with (x87 and SSE stores of up to 8 bytes, PUSH and CALL onto a table, INS): here those fault.

What Xen 4.17 does was read in its emulation of read-only page faults.
"""

from typing import TYPE_CHECKING, Final

from emu.cpu import ES, RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP, SS
from emu.paging import PTE_MFN_MASK, PTE_P, RFLAGS_DF
from emu.units import ENTRIES, MFN, PAGE_MASK, PAGE_SHIFT
from hypervisor.abi import DomId
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault
from hypervisor.stores import (
    BIT_OPERATIONS,
    DOUBLE_SHIFTS,
    MAX_LENGTH,
    RIP_RELATIVE,
    SHIFTS,
    STRINGS,
    ZF,
    Store,
    compute,
    condition_holds,
    count_of,
    decode,
    double_shift,
)

if TYPE_CHECKING:
    from hypervisor.emulate import Emulator
    from hypervisor.hypervisor import Hypervisor

_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
_COW: Final = int(DomId.COW)
_MOVES: Final = ("mov", "movbe", "movs", "stos", "pop", "set", "xchg")
"""What stores a value that does not depend on what was there: always, even the same."""


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
        store = decode(self._emulator.fetch(domain, MAX_LENGTH), self._cpu.bits)
        if store is None:
            return False
        where = self._address(store)
        bit = 0
        if store.name in BIT_OPERATIONS:
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
            if store.name == "pop" and store.base == RSP:
                where += store.size  # the stack pointer moves first
        elif store.base == RIP_RELATIVE:
            where += words[RIP] + store.length
        if store.index_register >= 0:
            where += words[store.index_register] << store.scale
        where &= store.address_mask
        if store.name in STRINGS:
            return where + (self._cpu.segment_base(ES) if self._cpu.bits == 32 else 0)
        if store.segment is not None:
            where += self._cpu.segment_base(store.segment)
        return where & (_M64 if self._cpu.bits == 64 else _M32)

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
        if name == "cmpxchg16b":
            return self._without_match(domain, store, table, offset)
        source = self._source(domain, store, bit)
        if source is None:
            return False
        always = store.locked or name in _MOVES
        if name in _MOVES:
            new = source
        elif name in ("cmpxchg", "cmpxchg8b"):
            expected = self._expected(store)
            always = expected == old
            new = source if always else old
            if name == "cmpxchg":
                _, flags = compute("sub", expected, old, size, flags)
            else:
                flags = flags | ZF if always else flags & ~ZF
        elif name in DOUBLE_SHIFTS:
            new, flags = double_shift(name, old, source, count_of(store, words), size, flags)
        else:
            new, flags = compute("add" if name == "xadd" else name, old, source, size, flags)
        if (always or new != old) and not self._update(
            domain, table, index, whole & ~(mask << shift) | new << shift, offset, size
        ):
            return False
        cpu.flags = flags
        self._set_registers(store, old, always)
        length = store.length
        if name in STRINGS:
            length = self._step(store)
        self._emulator.finish(domain, length)
        return True

    def _without_match(self, domain: Domain, store: Store, table: MFN, offset: int) -> bool:
        """CMPXCHG16B: it would store too much, but if it does not match it stores nothing."""
        words = self._words
        at = table * ENTRIES + (offset >> 3)
        low, high = self._hv.machine.memory.words[at : at + 2]
        if (low, high) == (words[RAX], words[RDX]):
            return False
        words[RAX], words[RDX] = low, high
        self._cpu.flags &= ~ZF
        self._emulator.finish(domain, store.length)
        return True

    def _source(self, domain: Domain, store: Store, bit: int) -> int | None:
        """The operand that is not the entry; None if it cannot be read."""
        words, name, size = self._words, store.name, store.size
        mask = (1 << 8 * size) - 1
        if name == "movs":
            return self._string_source(domain, store)
        if name == "pop":
            return self._popped(domain, size)
        if name == "stos":
            return words[RAX] & mask
        if name == "set":
            return int(condition_holds(store.condition, self._cpu.flags))
        if name in BIT_OPERATIONS:
            return bit
        if name in SHIFTS:
            return count_of(store, words)
        if name == "cmpxchg8b":
            return (words[RCX] & _M32) << 32 | words[RBX] & _M32
        if name == "movbe":
            return int.from_bytes(self._register(store).to_bytes(size, "little"), "big")
        if store.immediate is None or name in DOUBLE_SHIFTS:
            return self._register(store)
        return store.immediate & mask

    def _expected(self, store: Store) -> int:
        """What a compare-and-exchange compares with."""
        words = self._words
        if store.name == "cmpxchg8b":
            return (words[RDX] & _M32) << 32 | words[RAX] & _M32
        return words[RAX] & (1 << 8 * store.size) - 1

    def _set_registers(self, store: Store, old: int, matched: bool) -> None:
        """What the instruction leaves in registers, ``old`` having been the operand."""
        words, name, size = self._words, store.name, store.size
        if name in ("xchg", "xadd"):
            high = size == 1 and store.high_bytes and 4 <= store.reg < 8
            self._set_register(store.reg, high, size, old)
        elif name == "cmpxchg" and not matched:
            self._set_register(RAX, False, size, old)
        elif name == "cmpxchg8b" and not matched:
            words[RAX], words[RDX] = old & _M32, old >> 32
        elif name == "pop":
            self._set_register(RSP, False, self._cpu.bits // 8, self._stack() + size)

    def _update(
        self, domain: Domain, table: MFN, index: int, new: int, offset: int, size: int
    ) -> bool:
        """Put a whole entry in place if it is one that the domain may have."""
        if self._put(domain, table, index, new):
            return True
        if domain.width == 32 and size == 4 and offset & 4 and new & PTE_P:
            return self._put(domain, table, index, new & ~PTE_P)
        return False

    def _put(self, domain: Domain, table: MFN, index: int, new: int) -> bool:
        hv = self._hv
        if new & PTE_P:
            mfn = (new & PTE_MFN_MASK) >> PAGE_SHIFT
            # Other domains' frames are mapped by hypercalls that name their owner.
            if not hv.frames.exists(mfn) or hv.frames.owner[mfn] not in (domain.id, _COW):
                return False
        return hv.paging.update_entry(table, index, new, domain) == 0

    # -- the stack -------------------------------------------------------------------------

    def _stack(self) -> int:
        return self._words[RSP] & (_M64 if self._cpu.bits == 64 else _M32)

    def _popped(self, domain: Domain, size: int) -> int | None:
        base = self._cpu.segment_base(SS) if self._cpu.bits == 32 else 0
        try:
            data = self._hv.guest.read(domain, base + self._stack(), size)
        except GuestFault:
            return None
        return int.from_bytes(data, "little")

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
