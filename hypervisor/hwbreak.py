"""A guest's breakpoints: DR0 to DR3 as DR7 enables them, made to happen.

The registers are virtual (``debugregs``) and nothing is armed in the engine's own: what they ask
for is set as the guest's part of ``emu.stops``, whenever the domain comes into the CPU or changes
them. A breakpoint on code is a fault: #DB before the instruction, which the handler's return
executes if it sets RF. One on data is a trap behind the instruction. DR6 says which it was; its
bits add up until the guest clears them, as in Xen.

Breakpoints are linear addresses, in whatever address space and mode the domain is. On data they are
found by the frame that the address leads to just now, which is looked at again after each flush of
the TLB; so an access through another address of the same frame counts too, which it would not in
hardware. What the hypervisor itself stores for the guest (results, rings, stores to page tables
that are emulated) sets nothing off, as in Xen. Breakpoints on I/O ports are the emulator's.

Source: Intel SDM volume 3B, 18.2 and 18.3.1; the rules of DR6 are those of Xen 4.17.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from emu.units import PAGE_SHIFT, VA
from hypervisor.debugregs import ACTIVE
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_LENGTHS: Final = (1, 2, 8, 4)
"""Bytes by LENn."""
_CODE, _WRITE, _IO, _ACCESS = range(4)
"""R/Wn."""
_KEPT: Final = 64
"""Slices for which accesses are still watched after the last breakpoint on data has gone."""
_NOTHING: Final[frozenset[int]] = frozenset()


class Breakpoint(NamedTuple):
    """One that DR7 enables; ``length`` in bytes, to which ``address`` is aligned."""

    number: int
    kind: int
    address: int
    length: int


def enabled(registers: list[int]) -> list[Breakpoint]:
    """The breakpoints that debug registers DR0 to DR7 enable, locally or globally."""
    control = registers[7]
    found = []
    for number in range(4):
        if control >> 2 * number & 3:
            field = control >> (16 + 4 * number) & 15
            length = 1 if field & 3 == _CODE else _LENGTHS[field >> 2]
            address = registers[number] & -length
            found.append(Breakpoint(number, field & 3, address, length))
    return found


def port_bits(domain: Domain, port: int, size: int) -> int:
    """Bits of DR6 for an access of ``size`` bytes to an I/O port."""
    return sum(
        1 << point.number
        for point in enabled(domain.debug_registers)
        if point.kind == _IO and point.address < port + size and port < point.address + point.length
    )


class HardwareBreakpoints:
    """The breakpoints of the domain that is in the CPU."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._machine = hv.machine
        self._code: dict[int, int] = {}
        """Linear address -> bits of DR6."""
        self._data: list[tuple[Breakpoint, int]] = []
        """With the machine address that each leads to."""
        self._watching: set[int] = set()
        """Domains that have any on data."""
        self._bits = 0
        self.resumed = -1
        """Position of an instruction that was let through because of RF: if it faults, the flags
        that are pushed have RF again."""
        stops = self._machine.stops
        stops.on_guest_address = self._reached
        stops.on_guest_access = self._accessed
        self._machine.on_debug = self._deliver
        self._machine.on_void = self._forget
        self._kept = 0

    def begin(self, domain: Domain) -> None:
        """``arm`` for a slice that begins. Only here accesses cease to be watched, and not at once:
        it drops all translated code, and a guest could go on and off as it likes."""
        if self._watching:
            self._watching &= self._hv.domains.keys()
            self._kept = _KEPT
        elif self._kept:
            self._kept -= 1
            if not self._kept:
                self._set(domain)
        self.arm(domain)

    def arm(self, domain: Domain) -> None:
        """Set what the debug registers of the domain in the CPU ask for."""
        self._machine.coherence.on_flush = self._moved if self._watching else None
        active = domain.debug_registers[7] & ACTIVE or domain.id in self._watching
        if active or self._machine.stops.has_guest:
            self._set(domain)

    def _set(self, domain: Domain) -> None:
        points = enabled(domain.debug_registers)
        self._code = {}
        for point in points:
            if point.kind == _CODE:
                self._code[point.address] = self._code.get(point.address, 0) | 1 << point.number
        data = [point for point in points if point.kind in (_WRITE, _ACCESS)]
        if data:
            self._watching.add(domain.id)
        else:
            self._watching.discard(domain.id)
        self._watching &= self._hv.domains.keys()
        self._data = []
        for point in data:
            found = self._machine.walk(VA(point.address)).ma
            if found is not None:
                self._data.append((point, found))
        frames = frozenset(found >> PAGE_SHIFT for _, found in self._data)
        addresses = frozenset(self._code) if self._code else _NOTHING
        self._machine.coherence.on_flush = self._moved if self._watching else None
        if self._watching:
            self._kept = _KEPT
        self._machine.stops.set_guest(addresses, frames, self._kept > 0)

    def _moved(self) -> None:
        """Translations were forgotten: what is watched may be somewhere else."""
        if self._hv.current.id in self._watching:
            self._set(self._hv.current)

    # -- hits ------------------------------------------------------------------------------

    def _reached(self, address: int) -> bool:
        cpu = self._machine.cpu
        if cpu.resume:
            # The engine clears RF no sooner than at the end of a block.
            cpu.resume = False
            self.resumed = self._machine.position
            return False
        self._bits |= self._code[address]
        return True

    def _accessed(self, address: int, size: int, value: int | None) -> None:
        for point, found in self._data:
            if value is None and point.kind == _WRITE:
                continue
            if found < address + size and address < found + point.length:
                self._bits |= 1 << point.number
                self._machine.debug_behind()

    def take(self) -> int:
        """Bits of DR6 for what was hit and not delivered yet: for a single step at that place."""
        bits, self._bits = self._bits, 0
        return bits

    def _forget(self) -> None:
        """The instruction that hit did not complete: nobody hears of it."""
        self._bits = 0

    def _deliver(self) -> None:
        domain = self._hv.current
        bits = self.take()
        if not bits or domain.exit is not None:
            return
        domain.debug_registers[6] |= bits
        domain.tally["breakpoints"] += 1
        self._hv.traps.debug_exception(domain)
