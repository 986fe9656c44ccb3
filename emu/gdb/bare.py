"""A bare ``Machine`` as a target: one process with one thread, and no way back.

Breakpoints and watchpoints are found by stepping: after each instruction the address of the next is
looked up, and watched bytes are compared. That is slow (some microseconds an instruction) and needs
nothing of the machine; without any the machine runs at its full speed. Reads cannot be watched in
this way and are refused.

Rights are not asked when a debugger reads or writes memory; what is not mapped cannot be had.
"""

from collections.abc import Sequence
from typing import Final

from emu.debug.qemu import info_mem, info_registers, info_tlb, segment_caches
from emu.gdb.args import EFAULT, ENOSYS
from emu.gdb.registers import values
from emu.gdb.target import (
    Cause,
    Executable,
    Resume,
    StopKind,
    StopReport,
    TargetError,
    Thread,
    ThreadId,
)
from emu.machine import EFER_BOOT, Ending, Machine
from emu.paging import PagingMode
from emu.registers import read_registers, write_register
from emu.units import MA, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Controls

_ME: Final = ThreadId(1, 1)
_CHUNK: Final = 1_000_000
"""Instructions between two looks at ``interrupt``."""
_M64: Final = (1 << 64) - 1
_BREAK_CAUSES: Final = {
    StopKind.SOFTWARE: Cause.BREAKPOINT,
    StopKind.HARDWARE: Cause.HARDWARE,
}


class BareTarget:
    """``machine`` as gdb's only process; ``name`` is the thread's, ``program`` its ELF file."""

    reversible = False

    def __init__(
        self, machine: Machine, name: str = "cpu", program: Executable | None = None
    ) -> None:
        self._machine = machine
        self._name = name
        self._program = program
        self._stops: dict[int, tuple[StopKind, int, int]] = {}
        self._next = 1
        self._interrupted = False
        self._ended = False

    def threads(self) -> Sequence[Thread]:
        """The CPU, until it was killed."""
        return [] if self._ended else [Thread(_ME, self._name, "", self._width())]

    def _width(self) -> int:
        return 64 if self._machine.cpu.bits == 64 else 32

    # -- state -----------------------------------------------------------------------------

    def registers(self, thread: ThreadId) -> dict[str, int]:
        """All registers."""
        return values(read_registers(self._machine.cpu))

    def set_register(self, thread: ThreadId, name: str, value: int) -> None:
        """Write a register of ``emu.registers.SETTABLE``, or CR0, CR3 or CR4."""
        cpu = self._machine.cpu
        if name == "cr3":
            cpu.cr3 = value & _M64
            self._machine.coherence.flush()
            return
        try:
            write_register(cpu, name, value)
        except KeyError:
            raise TargetError(f"register {name} cannot be set") from None

    def _translate(self, address: int) -> int | None:
        found = self._machine.walk(VA(address & _M64))
        if found.leaf is None and found.ma is None:
            return None
        step = found.leaf
        if step is None or found.ma is not None:
            return found.ma
        # Mapped, but not for this access: rights are not asked.
        size = found.page_size
        frame = step.entry & ((1 << 40) - 1) & -size
        ma = frame | address & (size - 1)
        return ma if ma >> PAGE_SHIFT < self._machine.memory.frames else None

    def read(self, process: int, address: int, length: int) -> bytes:
        """Virtual memory; shorter where it ends."""
        found = bytearray()
        while len(found) < length:
            at = (address + len(found)) & _M64
            part = min(length - len(found), PAGE_SIZE - (at & PAGE_MASK))
            ma = self._translate(at)
            data = b"" if ma is None else self.read_physical(ma, part)
            found += data
            if len(data) < part:
                break
        return bytes(found)

    def write(self, process: int, address: int, data: bytes) -> None:
        """Virtual memory, all or nothing."""
        places: list[tuple[int, bytes]] = []
        done = 0
        while done < len(data):
            at = (address + done) & _M64
            part = data[done : done + PAGE_SIZE - (at & PAGE_MASK)]
            ma = self._translate(at)
            if ma is None or not self._machine.memory.holds(ma, len(part)):
                raise TargetError(f"nothing is mapped at {at:#x}", EFAULT)
            places.append((ma, part))
            done += len(part)
        for ma, part in places:
            self.write_physical(ma, part)

    def read_physical(self, address: int, length: int) -> bytes:
        """Machine memory; shorter where it ends."""
        memory = self._machine.memory
        if not 0 <= address < memory.size:
            return b""
        return memory.read(MA(address), min(length, memory.size - address))

    def write_physical(self, address: int, data: bytes) -> None:
        """Machine memory."""
        if not self._machine.memory.holds(address, len(data)):
            raise TargetError(f"machine address {address:#x} is outside memory", EFAULT)
        self._machine.load(MA(address), data)
        for mfn in range(address >> PAGE_SHIFT, (address + len(data) - 1 >> PAGE_SHIFT) + 1):
            self._machine.coherence.wrote(MFN(mfn))
        self._machine.coherence.flush()  # it may have been a table

    # -- running ---------------------------------------------------------------------------

    def insert(self, process: int, kind: StopKind, address: int, length: int) -> int:
        """A breakpoint, or a watchpoint for writes.

        Raises:
            TargetError: nothing is mapped there, or reads are to be watched.
        """
        if kind in (StopKind.READ, StopKind.ACCESS):
            raise TargetError("a bare machine watches writes only", ENOSYS)
        if not self.read(process, address, 1):
            raise TargetError(f"nothing is mapped at {address:#x}", EFAULT)
        number, self._next = self._next, self._next + 1
        self._stops[number] = (kind, address, length)
        return number

    def remove(self, number: int) -> None:
        """Take it away."""
        self._stops.pop(number, None)

    def resume(self, how: Resume) -> StopReport:
        """Run until a stop, an interruption, or the CPU halts."""
        if how.backward:
            raise TargetError("a bare machine cannot go back", ENOSYS)
        self._interrupted = False
        machine = self._machine
        slow = bool(self._stops) or how.stepping is not None
        while not self._interrupted:
            watched = self._watched()
            ending = machine.run(1 if slow else _CHUNK)
            if ending is Ending.HALTED:
                return StopReport(Cause.IDLE, _ME, text="the CPU has halted")
            if ending is Ending.STOPPED:
                return StopReport(Cause.CATCH, _ME, text="a trap handler stopped the machine")
            report = self._hit(watched)
            if report is not None:
                return report
            if how.stepping is not None and not self._within(how.range):
                return StopReport(Cause.STEP, _ME)
        return StopReport(Cause.INTERRUPT, _ME)

    def _within(self, span: tuple[int, int] | None) -> bool:
        return span is not None and span[0] <= self._machine.cpu.rip < span[1]

    def _watched(self) -> dict[int, bytes]:
        return {
            number: self.read(1, address, length)
            for number, (kind, address, length) in self._stops.items()
            if kind is StopKind.WRITE
        }

    def _hit(self, before: dict[int, bytes]) -> StopReport | None:
        rip = self._machine.cpu.rip
        for number, (kind, address, length) in self._stops.items():
            if kind is StopKind.WRITE:
                if self.read(1, address, length) != before[number]:
                    return StopReport(Cause.WRITE, _ME, address)
            elif address == rip:
                return StopReport(_BREAK_CAUSES[kind], _ME)
        return None

    def interrupt(self) -> None:
        """Stop ``resume``; a flag only, so it is safe from anywhere."""
        self._interrupted = True

    def kill(self, process: int) -> None:
        """Never run it again."""
        self._ended = True

    # -- the rest --------------------------------------------------------------------------

    def executable(self, process: int) -> Executable | None:
        """The ELF file given at the start, if any."""
        return self._program

    def monitor(self, process: int, line: str) -> str:
        """QEMU's views of registers and tables, and ``walk ADDRESS``."""
        words = line.split()
        if len(words) == 2 and words[0] == "walk":
            try:
                return self._machine.walk(VA(int(words[1], 0) & _M64)).explain()
            except ValueError:
                raise TargetError(f"{words[1]!r} is no address") from None
        cpu, memory = self._machine.cpu, self._machine.memory
        if words == ["info", "registers"]:
            return "\n".join(info_registers(read_registers(cpu), segment_caches(cpu.state)))
        if words in (["info", "mem"], ["info", "tlb"]):
            controls = Controls.from_registers(cpu.cr0, cpu.cr4, EFER_BOOT, cpu.flags)
            if controls.mode is PagingMode.OFF:
                return "PG disabled"
            lines = info_mem if words[1] == "mem" else info_tlb
            return "\n".join(lines(memory, cpu.cr3, controls))
        if words == ["help"]:
            return "walk ADDRESS, info registers, info mem, info tlb, why"
        raise TargetError(f"no command {line!r}; there is help")

    def epoch(self) -> int:
        """Nothing but the client changes anything."""
        return 0
