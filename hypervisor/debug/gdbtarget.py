"""The debugger as gdb sees it: each domain is a process with one thread, its vCPU.

An adapter from ``emu.gdb.Target`` onto ``Debugger``, which owns every mechanism; here are only the
translations between the two, and what gdb expects of a process that a domain does not have:

- A domain that crashes, or whose end is caught (``monitor catch exit``), stays for a moment: gdb is
  shown a signal where it is, with all its registers and memory, and is told of the end when it lets
  it go on. From there it can also go back.
- A domain that gdb kills is frozen for good: the hypervisor could not take a destroyed one back
  when time goes backward. It is no longer listed.
- A domain is resumed alone or with others (``vCont``): those that are not named are frozen.
- A 32-bit guest sees CR3 as its own four-entry table, and EFER without long mode; what lies above
  is the hypervisor's.

``serve`` is the way in for ``cowbird debug -s``.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from emu.gdb import GdbServer, parse_address
from emu.gdb.address import Address
from emu.gdb.args import EFAULT
from emu.gdb.registers import values
from emu.gdb.target import (
    Cause,
    Executable,
    Resume,
    StopKind,
    StopReport,
    TargetEnds,
    TargetError,
    Thread,
    ThreadId,
)
from emu.paging import EFER
from emu.units import PAGE_SHIFT
from hypervisor.debug.commands import Quit
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import Catch, DebugError, Stop, StopReason, WatchKind
from hypervisor.debug.stop_text import catch_text
from hypervisor.debug.views_machine import event_text
from hypervisor.domain import Domain

log: Final = logging.getLogger("rsp")

Execute = Callable[[str, int], str]
"""Runs one command line on a domain (its id, 0 if none is left); ``DebugError``, ``Quit`` rise."""

_CAUSES: Final = {
    StopReason.BREAKPOINT: Cause.BREAKPOINT,
    StopReason.HWBREAK: Cause.HARDWARE,
    StopReason.WATCH: Cause.WRITE,
    StopReason.RWATCH: Cause.READ,
    StopReason.AWATCH: Cause.ACCESS,
    StopReason.STEP: Cause.STEP,
    StopReason.CATCH: Cause.CATCH,
    StopReason.INTERRUPT: Cause.INTERRUPT,
    StopReason.START_OF_HISTORY: Cause.HISTORY_BEGIN,
    StopReason.END_OF_RECORDING: Cause.HISTORY_END,
    StopReason.EXITED: Cause.EXITED,
    StopReason.CRASHED: Cause.CRASH,
    StopReason.FINISHED: Cause.IDLE,
    StopReason.LIMIT: Cause.INTERRUPT,
    StopReason.ERROR: Cause.INTERRUPT,
}
_WATCHES: Final[dict[StopKind, WatchKind]] = {
    StopKind.WRITE: "write",
    StopKind.READ: "read",
    StopKind.ACCESS: "access",
}
_WATCHED: Final = frozenset((StopReason.WATCH, StopReason.RWATCH, StopReason.AWATCH))
_LONG_MODE: Final = EFER.mask("LME", "LMA")


class GdbTarget:
    """``debugger``'s domains for gdb. ``execute`` runs what is behind ``monitor``."""

    reversible = True

    def __init__(self, debugger: Debugger, execute: Execute) -> None:
        self._debugger = debugger
        self._execute = execute
        self._interrupted = False
        self._leaving: StopReport | None = None
        """The end of a domain that still exists: told when gdb lets it go on."""
        self._killed: set[int] = set()
        self._moves = 0
        self._breakpoints: dict[int, tuple[int, int]] = {}
        """Of gdb's breakpoints for execution, by number: domain and address."""

    # -- domains ---------------------------------------------------------------------------

    def _domains(self) -> list[Domain]:
        leaving = None
        if self._leaving is not None and self._leaving.thread is not None:
            leaving = self._leaving.thread.process
        return [
            domain
            for domain in self._debugger.hv.domains.values()
            if (domain.exit is None or domain.id == leaving) and domain.id not in self._killed
        ]

    def threads(self) -> Sequence[Thread]:
        """A thread for each domain that lives, by its label, and what it does."""
        current = self._debugger.current
        return [
            Thread(ThreadId(domain.id), domain.label, _state(domain, current), domain.width)
            for domain in self._domains()
        ]

    def _domain(self, process: int) -> Domain:
        domain = self._debugger.hv.domains.get(process)
        if domain is None:
            raise TargetError(f"there is no domain {process}")
        return domain

    def executable(self, process: int) -> Executable | None:
        """The ELF file that the domain was built from."""
        domain = self._domain(process)
        elf = domain.symbols.elf
        return Executable(f"{domain.name}.elf", elf) if elf else None

    # -- state -----------------------------------------------------------------------------

    def registers(self, thread: ThreadId) -> dict[str, int]:
        """All registers, as the guest would have them."""
        try:
            found = values(self._debugger.registers(thread.process))
        except DebugError as error:
            raise TargetError(str(error)) from error
        domain = self._domain(thread.process)
        if domain.width == 32:
            found["cr3"] = domain.l3 << PAGE_SHIFT
            found["efer"] &= ~_LONG_MODE
        return found

    def set_register(self, thread: ThreadId, name: str, value: int) -> None:
        """Write a register that a debugger may set."""
        try:
            self._debugger.set_register(thread.process, name, value)
        except DebugError as error:
            raise TargetError(str(error)) from error

    def read(self, process: int, address: int, length: int) -> bytes:
        """Virtual memory, without any side effect."""
        try:
            return self._debugger.read(process, address, length)
        except DebugError as error:
            raise TargetError(str(error), EFAULT) from error

    def write(self, process: int, address: int, data: bytes) -> None:
        """Virtual memory that is the domain's alone; ``Debugger.write`` decides."""
        try:
            self._debugger.write(process, address, data)
        except DebugError as error:
            raise TargetError(str(error), EFAULT) from error

    def read_physical(self, address: int, length: int) -> bytes:
        """Machine memory."""
        return self._debugger.read_physical(address, length)

    def write_physical(self, address: int, data: bytes) -> None:
        """Refused: by machine address a write could reach a page table or a shared frame."""
        raise TargetError(
            f"machine address {address:#x}: only virtual addresses are written", EFAULT
        )

    # -- stops -----------------------------------------------------------------------------

    def insert(self, process: int, kind: StopKind, address: int, length: int) -> int:
        """A breakpoint where something is mapped now, or a watchpoint."""
        debugger = self._debugger
        try:
            if len(debugger.read(process, address, length)) < length:
                raise TargetError(f"nothing is mapped at {address:#x}", EFAULT)
            if kind in _WATCHES:
                return debugger.add_watchpoint(process, address, length, _WATCHES[kind])
            hardware = kind is StopKind.HARDWARE
            number = debugger.add_breakpoint(process, address, hardware=hardware)
        except DebugError as error:
            raise TargetError(str(error)) from error
        self._breakpoints[number] = (process, address)
        return number

    def remove(self, number: int) -> None:
        """Take it away again."""
        self._breakpoints.pop(number, None)
        try:
            self._debugger.remove(number)
        except DebugError as error:
            raise TargetError(str(error)) from error

    # -- running ---------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Come back from ``resume`` soon."""
        self._interrupted = True
        self._debugger.interrupt()

    def resume(self, how: Resume) -> StopReport:
        """Run as gdb says, until there is something to tell it."""
        self._interrupted = False
        leaving, self._leaving = self._leaving, None
        if leaving is not None and not how.backward:
            return leaving
        try:
            while True:
                report = self._report(self._run(how))
                # An interrupt that came when its run was over already is meant for nothing.
                if report.cause is not Cause.INTERRUPT or self._interrupted or report.text:
                    return report
        except DebugError as error:
            raise TargetError(str(error)) from error

    def _run(self, how: Resume) -> Stop:
        debugger = self._debugger
        if how.backward:
            if how.stepping is not None:
                return debugger.reverse_step(how.stepping.process)
            stop = debugger.reverse_cont()
            if stop.reason in _WATCHED and stop.position > debugger.start:
                # gdb wants to see the old value: it takes an access that changed nothing back for
                # none, and goes on.
                debugger.goto(stop.position - 1)
            return stop
        only = how.running
        if self._killed:
            only = (only or frozenset(debugger.hv.domains)) - self._killed
        if how.stepping is None:
            return debugger.cont(only)
        debugger.allow(only)
        stop = debugger.step(how.stepping.process)
        while how.range is not None and stop.reason is StopReason.STEP:
            pc = debugger.registers(how.stepping.process).rip
            here = (how.stepping.process, pc)
            if not how.range[0] <= pc < how.range[1]:
                break
            if here in self._breakpoints.values():
                return Stop(StopReason.BREAKPOINT, here[0], stop.position)
            stop = debugger.step(how.stepping.process)
        return stop

    def _report(self, stop: Stop) -> StopReport:
        cause = _CAUSES[stop.reason]
        thread = None if stop.domain is None else ThreadId(stop.domain)
        domain = self._debugger.hv.domains.get(stop.domain or 0)
        status = 0
        text = stop.text
        if domain is not None and domain.exit is not None:
            status = domain.exit.code
            if cause in (Cause.CRASH, Cause.CATCH):
                end = Cause.KILLED if domain.exit.reason == "crash" else Cause.EXITED
                self._leaving = StopReport(end, thread, status=status)
        if cause is Cause.CRASH and domain is None:
            cause = Cause.KILLED
        elif cause is Cause.EXITED:
            text = f"domain {stop.domain}: {stop.text}"
        elif cause is Cause.CATCH and stop.event is not None:
            what = event_text(stop.event, self._debugger.hv.domains).strip()
            caught = self._debugger.stops.get(stop.number or 0)
            name = f" ({catch_text(caught)})" if isinstance(caught, Catch) else ""
            text = f"catch {stop.number}{name}: {what}"
        elif cause is Cause.IDLE:
            text = "nothing can run: every domain that may waits for an event"
        elif stop.reason in (StopReason.LIMIT, StopReason.ERROR):
            text = stop.text or stop.reason.value
        return StopReport(cause, thread, stop.address, status, text)

    def kill(self, process: int) -> None:
        """Freeze a domain for good, and list it no more."""
        self._killed.add(self._domain(process).id)

    # -- monitor ---------------------------------------------------------------------------

    def monitor(self, process: int, line: str) -> str:
        """One command of the debugger's prompt, on the selected domain."""
        before = self._fingerprint()
        try:
            return self._execute(line, process)
        except DebugError as error:
            raise TargetError(str(error)) from error
        except Quit as error:
            raise TargetEnds from error
        finally:
            if self._fingerprint() != before:
                self._moves += 1
                self._leaving = None

    def _fingerprint(self) -> tuple[int, tuple[tuple[int, dict[str, int]], ...]]:
        """Changes when a command moved the machine or changed registers."""
        states = tuple((d.id, self.registers(ThreadId(d.id))) for d in self._domains())
        return self._debugger.position, states

    def epoch(self) -> int:
        """How often a command changed what gdb may have read before."""
        return self._moves


def _state(domain: Domain, current: int | None) -> str:
    mode = "kernel" if domain.kernel_mode else "user"
    if domain.exit is not None:
        what = "crashed" if domain.exit.reason == "crash" else "ends"
        return f"{what} in {mode} mode"
    if domain.id == current:
        return f"running, {mode} mode"
    return f"{domain.state.value}, {mode} mode"


def serve(
    debugger: Debugger,
    execute: Execute,
    address: str,
    *,
    frozen: bool = True,
    announce: Callable[[Address], None] | None = None,
) -> None:
    """Serve gdb at ``address`` until there is nothing left to debug.

    ``frozen``: nothing runs before gdb says so. ``announce`` is told where, once gdb can connect.
    Ctrl-C (``KeyboardInterrupt``) ends it like any other call.

    Raises:
        AddressError: it is no address, not of this computer, or in use.
    """
    GdbServer(
        GdbTarget(debugger, execute), parse_address(address), frozen=frozen, announce=announce
    ).serve()
