"""A toy with processes for testing gdb's protocol: real memory and a real history, no CPU.

A process is 64 KiB of memory from ``BASE``, registers, and a program at ``CODE``, one byte an
instruction: ``.`` nothing, ``w`` add one to the word at ``DATA``, ``<`` back to the start, ``x``
exit with status 3, ``!`` crash, ``s`` sleep for ever. Processes take turns. ``Toy.position`` counts
instructions, and the states before each are kept, so that it can go back.
"""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from emu.gdb.args import EFAULT
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
from emu.memory import Memory

BASE, SIZE = 0x10000, 0x10000
CODE, DATA = 0x10000, 0x18000
SHARED = 0x1F000
"""Writes to this page are refused."""


@dataclass
class Process:
    program: bytes
    width: int = 64
    name: str = "toy"
    memory: bytearray = field(default_factory=lambda: bytearray(SIZE))
    registers: dict[str, int] = field(default_factory=dict)
    asleep: bool = False

    def __post_init__(self) -> None:
        self.memory[: len(self.program)] = self.program
        names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "cs", "fs_base", "efer")
        self.registers = dict.fromkeys(names, 0) | {"rip": CODE, "rflags": 2, "cr0": 0x8001_0001}


class Toy:
    """The target."""

    def __init__(self, *processes: Process, reversible: bool = True) -> None:
        self.reversible = reversible
        self.processes = dict(enumerate(processes, 1))
        self.stops: dict[int, tuple[int, StopKind, int, int]] = {}
        self.history: list[dict[int, Process]] = []
        self.machine = Memory(1 << 20)
        self.killed: list[int] = []
        self.interrupted = threading.Event()
        self.running = threading.Event()
        self.changes = 0
        self.resumed: list[Resume] = []
        self._next = 1
        self._turn = 0

    # -- state -----------------------------------------------------------------------------

    def threads(self) -> Sequence[Thread]:
        return [
            Thread(ThreadId(n, 1), p.name, "asleep" if p.asleep else "", p.width)
            for n, p in self.processes.items()
        ]

    def registers(self, thread: ThreadId) -> dict[str, int]:
        return dict(self.processes[thread.process].registers)

    def set_register(self, thread: ThreadId, name: str, value: int) -> None:
        if name not in self.processes[thread.process].registers or name.startswith("cr"):
            raise TargetError(f"register {name} cannot be set")
        self.processes[thread.process].registers[name] = value

    def read(self, process: int, address: int, length: int) -> bytes:
        at = address - BASE
        return bytes(self.processes[process].memory[at : at + length]) if 0 <= at < SIZE else b""

    def write(self, process: int, address: int, data: bytes) -> None:
        at = address - BASE
        if not 0 <= at <= SIZE - len(data):
            raise TargetError("nothing is mapped there", EFAULT)
        if address + len(data) > SHARED:
            raise TargetError("the frame is shared")
        self.processes[process].memory[at : at + len(data)] = data

    def read_physical(self, address: int, length: int) -> bytes:
        return bytes(self.machine.bytes[address : address + length])

    def write_physical(self, address: int, data: bytes) -> None:
        if not self.machine.holds(address, len(data)):
            raise TargetError("outside memory", EFAULT)
        self.machine.bytes[address : address + len(data)] = data

    # -- running ---------------------------------------------------------------------------

    def insert(self, process: int, kind: StopKind, address: int, length: int) -> int:
        if not self.read(process, address, length):
            raise TargetError("nothing is mapped there", EFAULT)
        number, self._next = self._next, self._next + 1
        self.stops[number] = (process, kind, address, length)
        return number

    def remove(self, number: int) -> None:
        if number not in self.stops:
            raise TargetError("no such breakpoint")
        del self.stops[number]

    def resume(self, how: Resume) -> StopReport:
        self.resumed.append(how)
        self.interrupted.clear()
        self.running.set()
        try:
            return self._back(how) if how.backward else self._forward(how)
        finally:
            self.running.clear()

    def _forward(self, how: Resume) -> StopReport:
        while not self.interrupted.is_set():
            chosen = self._choose(how)
            if chosen is None:
                return StopReport(Cause.IDLE, None, text="nothing can run")
            self.history.append(copy.deepcopy(self.processes))
            report = self._one(chosen)
            if report is not None:
                return report
            report = self._hit(chosen, self.history[-1][chosen])
            if report is not None:
                return report
            pc = self.processes[chosen].registers["rip"]
            span = how.range
            if how.stepping is not None and (span is None or not span[0] <= pc < span[1]):
                return StopReport(Cause.STEP, ThreadId(chosen))
        return StopReport(Cause.INTERRUPT, None)

    def _choose(self, how: Resume) -> int | None:
        if how.stepping is not None:
            return how.stepping.process
        able = [
            n
            for n, p in self.processes.items()
            if not p.asleep and (how.running is None or n in how.running)
        ]
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def _one(self, number: int) -> StopReport | None:
        process = self.processes[number]
        pc = process.registers["rip"]
        inside = 0 <= pc - BASE < SIZE
        what = chr(process.memory[pc - BASE]) if inside else "!"
        process.registers["rip"] = pc + 1
        if what == "w":
            at = DATA - BASE
            process.memory[at] = (process.memory[at] + 1) & 0xFF
        elif what == "<":
            process.registers["rip"] = CODE
        elif what == "s":
            process.asleep = True
        elif what in "x!":
            del self.processes[number]
            cause = Cause.EXITED if what == "x" else Cause.KILLED
            return StopReport(cause, ThreadId(number), status=3)
        return None

    def _hit(self, number: int, before: Process) -> StopReport | None:
        process = self.processes[number]
        for owner, kind, address, length in self.stops.values():
            if owner != number:
                continue
            if kind in (StopKind.SOFTWARE, StopKind.HARDWARE):
                if process.registers["rip"] == address:
                    hard = kind is StopKind.HARDWARE
                    cause = Cause.HARDWARE if hard else Cause.BREAKPOINT
                    return StopReport(cause, ThreadId(number))
            else:
                at = slice(address - BASE, address - BASE + length)
                if process.memory[at] != before.memory[at]:
                    return StopReport(Cause.WRITE, ThreadId(number), address)
        return None

    def _back(self, how: Resume) -> StopReport:
        while self.history:
            later, self.processes = self.processes, self.history.pop()
            moved = next(n for n in self.processes if self.processes[n] != later.get(n))
            report = self._hit(moved, later[moved]) if moved in later else None
            if report is not None:
                return report
            if how.stepping is not None:
                return StopReport(Cause.STEP, ThreadId(moved))
        return StopReport(Cause.HISTORY_BEGIN, how.stepping)

    def interrupt(self) -> None:
        self.interrupted.set()

    def kill(self, process: int) -> None:
        self.killed.append(process)
        self.processes.pop(process, None)

    def executable(self, process: int) -> Executable | None:
        if process != 1:
            return None
        return Executable("toy.elf", b"\x7fELF }#$* and so on" * 3000)

    def monitor(self, process: int, line: str) -> str:
        if line == "jump":
            self.changes += 1
            return "jumped"
        if line == "long":
            return "x" * 100_000
        if line == "fail":
            raise TargetError("that cannot be done")
        return f"{line} on {process}"

    def epoch(self) -> int:
        return self.changes
