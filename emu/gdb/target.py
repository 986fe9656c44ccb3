"""What the protocol needs of whatever is debugged: processes with threads, and how they run.

A *process* is an address space with threads in it; for a machine of domains each domain is one,
for a bare machine there is one. A *thread* is a CPU. Numbers of both begin at 1 and are never
used again for another while a client is connected.

Registers go by the names of ``emu.gdb.registers``, as unsigned integers; one that is missing
shows as unavailable. Everything is read without effect on what is debugged: no accessed bit is
set and no fault is raised. ``resume`` blocks; ``interrupt`` may be called from another thread
meanwhile, more than once, and also when nothing runs any more.

A target refuses with ``TargetError``: that becomes an error reply, and nothing has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from emu.errors import CowbirdError
from emu.gdb.args import EINVAL


class TargetError(CowbirdError):
    """The target refuses; ``code`` is the number in the error reply."""

    def __init__(self, why: str, code: int = EINVAL) -> None:
        super().__init__(why)
        self.code = code


class TargetEnds(Exception):
    """Raised by ``Target.monitor``: the person asked for the end of everything."""


@dataclass(frozen=True, slots=True, order=True)
class ThreadId:
    """A thread of a process; ``str()`` is gdb's way to write it."""

    process: int
    thread: int = 1

    def __str__(self) -> str:
        return f"p{self.process:x}.{self.thread:x}"


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread that exists, for lists of them."""

    id: ThreadId
    name: str
    state: str = ""
    """A word or two for a person: what it waits for."""
    width: int = 64
    """Of its process: 32 or 64."""


class StopKind(Enum):
    """Kinds of breakpoint; the value is the number in ``Z`` packets."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


class Cause(Enum):
    """Why ``resume`` came back."""

    STEP = "the step is done"
    BREAKPOINT = "a software breakpoint"
    HARDWARE = "a hardware breakpoint"
    WRITE = "a write to a watched address"
    READ = "a read of a watched address"
    ACCESS = "an access to a watched address"
    CATCH = "something else that was asked for"
    INTERRUPT = "interrupted"
    HISTORY_BEGIN = "the start of what is recorded"
    HISTORY_END = "the end of what is recorded"
    EXEC = "the process is another program now, or has another width"
    CRASH = "the process cannot go on, but still exists"
    EXITED = "the process has ended"
    KILLED = "the process was ended by a crash"
    IDLE = "nothing can run"


@dataclass(frozen=True, slots=True)
class StopReport:
    """Why and where everything stopped."""

    cause: Cause
    thread: ThreadId | None = None
    address: int | None = None
    """Of the watched bytes that were hit."""
    status: int = 0
    """Exit status of a process that ended."""
    text: str = ""
    """One more line for a person, if there is more to say."""


@dataclass(frozen=True, slots=True)
class Resume:
    """How to go on.

    ``running``: the processes that may run, None for all. ``stepping``: the thread that is to do
    one instruction, or with ``range`` as many as it takes to leave ``range[0] <= pc < range[1]``.
    """

    running: frozenset[int] | None = None
    stepping: ThreadId | None = None
    range: tuple[int, int] | None = None
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Executable:
    """The program of a process: a name for a person, and the bytes of its ELF file."""

    name: str
    data: bytes


class Target(Protocol):
    """Something to debug. All methods but ``interrupt`` and ``resume`` are called while stopped."""

    reversible: bool
    """Whether ``Resume.backward`` works."""

    def threads(self) -> Sequence[Thread]:
        """All threads that exist, in a stable order."""

    def registers(self, thread: ThreadId) -> dict[str, int]:
        """All registers that can be had."""

    def set_register(self, thread: ThreadId, name: str, value: int) -> None:
        """Write a register; refuses what has no meaning."""

    def read(self, process: int, address: int, length: int) -> bytes:
        """Virtual memory; shorter where it ends, empty if nothing is there."""

    def write(self, process: int, address: int, data: bytes) -> None:
        """All of ``data`` or, refusing, nothing. Never changes what another process sees."""

    def read_physical(self, address: int, length: int) -> bytes:
        """Machine memory; shorter where it ends."""

    def write_physical(self, address: int, data: bytes) -> None:
        """Machine memory, wherever that is the debugger's to change."""

    def insert(self, process: int, kind: StopKind, address: int, length: int) -> int:
        """Set a breakpoint or watchpoint; returns a number for ``remove``."""

    def remove(self, number: int) -> None:
        """Take it away again."""

    def resume(self, how: Resume) -> StopReport:
        """Run until there is something to report."""

    def interrupt(self) -> None:
        """Have the ``resume`` that is running now come back soon with ``Cause.INTERRUPT``."""

    def kill(self, process: int) -> None:
        """End a process."""

    def executable(self, process: int) -> Executable | None:
        """The program it was started from, if it is at hand."""

    def monitor(self, process: int, line: str) -> str:
        """A command of the target's own, on the selected process; what it answers is text."""

    def epoch(self) -> int:
        """Changes whenever something but the client changed what the client may have cached."""
