"""One client's session: what it selected and set, and how packets are answered.

The session is the state machine of the protocol, without any input or output of its own: a
``Link`` sends, and watches for Ctrl-C and for a client that hangs up while the target runs. The
packets themselves are answered in ``emu.gdb.data``, ``running``, ``queries``, ``qemu`` and
``files``, which register their handlers.

What holds: breakpoints that a client set are gone when its session ends; the layout of a
process's registers never changes within a session unless the client reads its description (gdb
does so by itself for the first process; of the others it takes the registers that every x86 has,
until ``unset tdesc filename`` is typed there); a packet that cannot be done
gets an error reply, is remembered in words for ``monitor why``, and changes nothing.

Source: the gdb manual, appendix "Remote Protocol".
"""

import logging
from contextlib import AbstractContextManager
from enum import Enum
from typing import Final, Protocol

from emu.gdb.args import ALL, EFAULT, EINVAL, ENOSYS, ESRCH, PacketError, ThreadArg
from emu.gdb.files import Files, path_of
from emu.gdb.packets import MAX_BODY
from emu.gdb.registers import Register, registers, standard
from emu.gdb.registry import find
from emu.gdb.selection import Selection
from emu.gdb.target import (
    Cause,
    Executable,
    StopKind,
    StopReport,
    Target,
    TargetError,
    Thread,
    ThreadId,
)

log: Final = logging.getLogger("rsp")

SIGINT: Final = 2
SIGTRAP: Final = 5
SIGSEGV: Final = 11
_SIGNALS: Final = {Cause.INTERRUPT: SIGINT, Cause.CRASH: SIGSEGV, Cause.IDLE: 0}
_REASONS: Final = {
    Cause.BREAKPOINT: ("swbreak", "swbreak:;"),
    Cause.HARDWARE: ("hwbreak", "hwbreak:;"),
    Cause.HISTORY_BEGIN: ("", "replaylog:begin;"),
    Cause.HISTORY_END: ("", "replaylog:end;"),
}
_WATCHES: Final = {Cause.WRITE: "watch", Cause.READ: "rwatch", Cause.ACCESS: "awatch"}

Stop = tuple[int, StopKind, int, int]
"""A breakpoint as the client names it: process, kind, address, length."""


class Link(Protocol):
    """The client's connection as the session sees it."""

    def send(self, body: bytes) -> None:
        """Send a packet."""

    def watching(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C and a client that hangs up interrupt the target."""

    def stop_acknowledging(self) -> None:
        """After the reply that is sent next."""


class Ending(Enum):
    """How a session ended, if not by hanging up."""

    DETACHED = "detached: the target goes on"
    KILLED = "the client asked for the end"


class Session:
    """Answers packets of one client about ``target``."""

    def __init__(self, target: Target, link: Link) -> None:
        self.target = target
        self.link = link
        self.ending: Ending | None = None
        self.extended = False
        self.physical = False
        """Memory packets mean machine addresses (QEMU's PhyMemMode)."""
        self.single_step_bits = 7
        self.client: frozenset[str] = frozenset()
        """What the client said in qSupported that it understands."""
        self.stops: dict[Stop, int] = {}
        self.widths: dict[int, int] = {}
        """By process: the width by which the client was told of its registers."""
        self.detached: set[int] = set()
        """Processes that this client let go."""
        self.files = Files()
        self.refusal = "nothing was refused so far"
        first = self.threads()
        self.general: ThreadId | None = first[0].id if first else None
        self.selection = Selection(self.general)
        self.control: ThreadArg | None = None
        self.last: bytes | None = None

    # -- packets ---------------------------------------------------------------------------

    def handle(self, body: bytes) -> None:
        """Answer one packet; never raises for anything that a client sent."""
        found = find(body)
        if found is None or (found[0].reverse and not self.target.reversible):
            self.link.send(b"")  # "not supported"
            return
        kind, rest = found
        try:
            reply = kind.handler(self, rest)
        except (PacketError, TargetError) as error:
            self.refusal = f"{body[:60].decode('latin-1')}: {error}"
            log.info("refused %s", self.refusal)
            reply = b"E%02x" % (error.code & 0xFF or EINVAL)
        if reply is not None:
            self.link.send(reply)

    def close(self) -> None:
        """The end of the session, however it came: take this client's breakpoints away."""
        for stop in list(self.stops):
            self.remove_stop(stop)

    def remove_stop(self, stop: Stop) -> None:
        """Take one breakpoint away; it is fine if the target has lost it."""
        number = self.stops.pop(stop, None)
        if number is not None:
            try:
                self.target.remove(number)
            except TargetError as error:
                log.info("breakpoint at %#x: %s", stop[2], error)

    # -- threads ---------------------------------------------------------------------------

    @property
    def multiprocess(self) -> bool:
        """Whether thread ids carry the process."""
        return "multiprocess" in self.client

    def threads(self) -> list[Thread]:
        """The threads that this client may see."""
        return [item for item in self.target.threads() if item.id.process not in self.detached]

    def let_all_go(self) -> bool:
        """Whether the client detached from every process that is left."""
        return bool(self.target.threads()) and not self.threads()

    def name(self, thread: ThreadId) -> str:
        """A thread id for the client; without processes, each is a thread by its number."""
        return str(thread) if self.multiprocess else f"{thread.process:x}"

    def matches(self, argument: ThreadArg | None, thread: ThreadId) -> bool:
        """Whether a thread is among those that an argument names."""
        if argument is None:
            return True
        if argument.process is None and not self.multiprocess:
            return argument.thread in (ALL, 0, thread.process)
        process_fits = argument.process in (None, ALL, 0, thread.process)
        return process_fits and argument.thread in (ALL, 0, thread.thread)

    def resolve(self, argument: ThreadArg) -> ThreadId:
        """The thread that an argument names: the selected one if it may be any, else the first.

        Raises:
            PacketError: there is no such thread.
        """
        fitting = [item.id for item in self.threads() if self.matches(argument, item.id)]
        if not fitting:
            raise PacketError("there is no such thread", ESRCH)
        return self.general if self.general in fitting else fitting[0]

    def selected(self) -> ThreadId:
        """The thread that register and memory packets are about.

        Raises:
            PacketError: it has ended.
        """
        chosen = self.general
        if chosen is None or all(item.id != chosen for item in self.threads()):
            raise PacketError("the selected thread has ended", ESRCH)
        return chosen

    def layout(self, thread: ThreadId) -> tuple[Register, ...]:
        """The registers of a thread as the client counts them."""
        told = self.widths.get(thread.process)
        return registers(told) if told else standard(self.real_width(thread))

    def looked_at(self) -> ThreadId | None:
        """The thread that a person has selected, for ``monitor``; any that is left if it ended."""
        there = [item.id for item in self.threads()]
        for wanted in (self.selection.chosen, self.general):
            if wanted in there:
                return wanted
        return there[0] if there else None

    def real_width(self, thread: ThreadId) -> int:
        """Width of the code that a thread runs, 32 or 64."""
        return next((t.width for t in self.target.threads() if t.id == thread), 64)

    # -- memory ----------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Memory as the memory packets mean it; at most what fits a reply, and at least a byte.

        Raises:
            PacketError: nothing is there.
        """
        length = min(length, MAX_BODY // 2 - 8)
        if self.physical:
            data = self.target.read_physical(address, length)
        else:
            thread = self.selected()
            data = self.target.read(thread.process, address, length)
            if length == 1 and self.target.registers(thread).get("rip") == address:
                self.selection.looked(thread)
        if length and not data:
            raise PacketError(f"nothing can be read at {address:#x}", EFAULT)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Memory as the memory packets mean it; all or nothing."""
        if not data:
            return
        if self.physical:
            self.target.write_physical(address, data)
        else:
            self.target.write(self.selected().process, address, data)

    # -- stops -----------------------------------------------------------------------------

    def stopped(self, report: StopReport) -> bytes:
        """The stop reply for a report; selects its thread, and says in words what gdb cannot."""
        if report.text:
            self.say(report.text + "\n")
        threads = self.threads()
        thread = report.thread or self.general
        if report.cause in (Cause.EXITED, Cause.KILLED) and report.thread is not None:
            process = report.thread.process
            for stop in [stop for stop in self.stops if stop[0] == process]:
                self.remove_stop(stop)
            if self.multiprocess or not threads:
                self.last = self._over(report, process)
                return self.last
        if not threads:
            self.last = b"W00"
            return self.last
        if thread is None or all(item.id != thread for item in threads):
            thread = threads[0].id
        self.general = thread
        self.selection.stopped(thread)
        text = f"T{_SIGNALS.get(report.cause, SIGTRAP):02x}"
        needs, reason = _REASONS.get(report.cause, ("", ""))
        if reason and (not needs or needs in self.client):
            text += reason
        if report.cause in _WATCHES and report.address is not None:
            text += f"{_WATCHES[report.cause]}:{report.address:x};"
        if report.cause is Cause.EXEC and "exec-events" in self.client:
            # gdb forgets what it knew of the process, and reads its description again.
            self.widths.pop(thread.process, None)
            program = self.target.executable(thread.process) or Executable("unknown", b"")
            text += f"exec:{path_of(thread.process, program).encode().hex()};"
        text += f"thread:{self.name(thread)};"
        self.last = text.encode("ascii")
        return self.last

    def _over(self, report: StopReport, process: int) -> bytes:
        if self.general is not None and self.general.process == process:
            self.general = None
        text = f"X{SIGSEGV:02x}" if report.cause is Cause.KILLED else f"W{report.status & 0xFF:02x}"
        if self.multiprocess:
            text += f";process:{process:x}"
        return text.encode("ascii")

    def say(self, text: str) -> None:
        """Show text on the client's console; only before a stop reply or within ``qRcmd``."""
        data = text.encode("utf-8", "replace")
        room = MAX_BODY // 2 - 8
        for start in range(0, len(data), room):
            self.link.send(b"O" + data[start : start + room].hex().encode("ascii"))

    def unsupported(self, what: str) -> PacketError:
        """An error for something that this server does not do."""
        return PacketError(f"{what} is not supported", ENOSYS)
