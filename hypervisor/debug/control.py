"""A machine under a debugger's control: run it, stop it, look at it, change it.

Everything that can influence a run from outside is an *input*, logged with its position: what is
typed on a console, a debugger's writes, and which domains may run. With the start and the log a run
is a function of its position (``hypervisor.debug.timeline``). An input that is made in the past
begins a new future: what was recorded behind it is forgotten.

``interrupt`` and ``feed`` may be called from another thread or a signal handler while the machine
runs; everything else only while it stands still.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from emu.disasm import disassemble
from emu.errors import MachineError
from emu.registers import Registers
from hypervisor.debug.inputs import Input
from hypervisor.debug.model import AnyStop, Catch, Stop, StopReason, WatchKind
from hypervisor.debug.recording import starts_of
from hypervisor.debug.state import DomainState
from hypervisor.debug.stopset import StopSet
from hypervisor.debug.timeline import Timeline
from hypervisor.debug.travel import Traveller
from hypervisor.domain import Domain
from hypervisor.errors import HypervisorError
from hypervisor.hypervisor import Hypervisor

_CALL: Final = "call"


class ControlledMachine:
    """One machine under control, with the domains that it has now.

    ``record`` False: no snapshots are taken, so that there is no way back, and running costs
    nothing.
    """

    def __init__(self, hv: Hypervisor, record: bool = True) -> None:
        self.hv = hv
        self._starts = starts_of(hv)
        self._complete = len(self._starts) == len(hv.domains) and hv.machine.position == 0
        self.state = DomainState(hv)
        self._stops = StopSet(hv, self.state)
        hv.on_end = self._domain_ended
        hv.scheduler.settle()
        self.timeline = Timeline(hv, self.state, record)
        self.timeline.on_restore = self._stops.resync
        self.timeline.on_cut.append(self._cut)
        self._travel = Traveller(hv, self.state, self._stops, self.timeline, self._take_interrupt)
        self._interrupted = False
        self._typed: deque[tuple[int, bytes]] = deque()
        self._ended: Stop | None = None
        self.checkpoints: dict[str, int] = {}
        """Named positions."""
        self.last_stop: Stop | None = None

    # -- where -----------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Instructions that the machine has started."""
        return self.hv.machine.position

    @property
    def start(self) -> int:
        """The earliest position that can be gone to."""
        return self.timeline.start

    @property
    def end(self) -> int:
        """The furthest position of this history."""
        return self.timeline.end

    @property
    def replaying(self) -> bool:
        """True while instructions run that have run before: listeners must not act twice."""
        return self.timeline.replaying

    @property
    def on_cut(self) -> list[Callable[[int], None]]:
        """Called with the position at which a new future begins."""
        return self.timeline.on_cut

    @property
    def current(self) -> int | None:
        """The domain whose instruction is next, None if no domain can run."""
        running = self.hv.scheduler.running
        return None if running is None else running.id

    @property
    def only(self) -> frozenset[int] | None:
        """The domains that may run, None for all."""
        return self.hv.scheduler.only

    # -- running forward -------------------------------------------------------------------

    def interrupt(self) -> None:
        """Have the running ``cont`` (or any other) come back with INTERRUPT; from any thread."""
        self._interrupted = True

    def cont(self, only: frozenset[int] | None = None, limit: int | None = None) -> Stop:
        """Run until something stops the machine.

        ``only``: the domains that may run, None for all; it stays so until the next time. In the
        past it says nothing: what was recorded runs as it ran. ``limit``: at most so many
        instructions, then LIMIT.
        """
        self.allow(only)
        stop = self._run(None if limit is None else self.position + limit)
        return self._stopped(stop or self._stop(StopReason.LIMIT))

    def step(self, domain: int, count: int = 1) -> Stop:
        """Run until the domain has started ``count`` further instructions.

        Other domains run meanwhile when it is their turn. A hypercall is one step; a fault ends at
        the first instruction of the handler.

        Raises:
            DebugError: there is no such domain.
        """
        target = self.state.domain(domain)
        wanted = target.instructions + count
        scheduler = self.hv.scheduler
        while target.instructions < wanted and target.exit is None:
            left = scheduler.slice_left
            if scheduler.running is target:
                left = min(left, wanted - target.instructions)
            stop = self._run(self.position + max(1, left))
            if stop is not None:
                return self._stopped(stop)
        return self._stopped(self._stop(StopReason.STEP, domain))

    def run_until(self, wanted: Callable[[Domain, int], bool]) -> Stop:
        """Run until ``wanted(domain, rip)`` holds before an instruction: about a microsecond each.

        Answers STEP where it held; any other stop ends it too.
        """
        first = self.position

        def ask(domain: Domain, rip: int) -> bool:
            return self.position - 1 != first and wanted(domain, rip)

        self._stops.on_instruction = ask
        self._stops.resync()
        try:
            stop = self._run(None)
        finally:
            self._stops.on_instruction = None
            self._stops.resync()
        return self._stopped(stop or self._stop(StopReason.STEP))

    def next_(self, domain: int) -> Stop:
        """One instruction, and if it is a call all of what is called.

        Raises:
            DebugError: there is no such domain.
        """
        registers = self.registers(domain)
        code = self.read(domain, registers.rip, 16)
        found = next(iter(disassemble(code, registers.rip, registers.bits)), None)
        if found is None or not found.mnemonic.startswith(_CALL):
            return self.step(domain)
        sp = registers.value("rsp")
        back = found.address + found.size
        condition = f"rsp >= {sp}"
        number = self.add_breakpoint(domain, back, temporary=True, condition=condition)
        return self._until_temporary(number, domain)

    def finish(self, domain: int) -> Stop:
        """Run until the function that the domain is in has returned.

        Raises:
            DebugError: there is no such domain.
        """
        target = self.state.domain(domain)
        cpu = self.hv.machine.cpu
        registers = self.registers(domain)
        sp = registers.value("rsp")
        at_return = self._is_return(domain, registers.rip, registers.bits)

        def returned(running: Domain, rip: int) -> bool:
            nonlocal at_return
            if running is not target:
                return False
            back = at_return and cpu.register("rsp") > sp
            at_return = self._is_return(domain, rip, cpu.bits)
            return back

        return self.run_until(returned)

    def _is_return(self, domain: int, rip: int, bits: int) -> bool:
        code = self.state.read(domain, rip, 3)
        # C2, C3: near; CA, CB: far; F2 and F3 may stand before it, REX too.
        code = code.lstrip(b"\xf2\xf3")
        if bits == 64 and code and code[0] & 0xF0 == 0x40:
            code = code[1:]
        return code[:1] in (b"\xc2", b"\xc3", b"\xca", b"\xcb")

    def _until_temporary(self, number: int, domain: int) -> Stop:
        stop = self.cont(self.only)
        if number in self._stops.stops:
            self.remove(number)
        if stop.number == number:
            stop = self._stopped(self._stop(StopReason.STEP, domain))
        return stop

    def allow(self, only: frozenset[int] | None) -> None:
        """Say which domains may run, None for all: an input, like a write.

        In the past it says nothing: what was recorded runs as it ran.
        """
        if only is not None and only.issuperset(self.hv.domains):
            only = None
        if only != self.hv.scheduler.only and not self.timeline.past:
            ids = None if only is None else tuple(sorted(only))
            self.timeline.make(Input(self.position, "only", ids=ids))

    def _take_interrupt(self) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _type(self) -> None:
        """Make inputs of what was fed."""
        while self._typed:
            domain, data = self._typed.popleft()
            if domain in self.hv.domains:
                self.timeline.make(Input(self.position, "type", domain, data))

    def _run(self, limit: int | None) -> Stop | None:
        """Run to a hit, the end of all running, an interrupt, or ``limit`` (a position: None)."""
        stops, timeline = self._stops, self.timeline
        stops.passed = self.position
        self._ended = None
        while True:
            if self._take_interrupt():
                return self._stop(StopReason.INTERRUPT)
            self._type()
            if limit is not None and self.position >= limit:
                return None
            if timeline.sealed and not timeline.past:
                return self._stop(StopReason.END_OF_RECORDING)
            try:
                finished = timeline.advance(limit)
            except (HypervisorError, MachineError) as error:
                return self._stop(StopReason.ERROR, text=str(error))
            stops.look()
            stop = stops.take() or self._ended
            if stop is not None:
                return stop
            if finished and not self._typed and not timeline.past:
                return self._stop(StopReason.FINISHED)

    def _domain_ended(self, domain: Domain) -> None:
        domain.console.flush()
        how = domain.exit
        crashed = how is not None and how.reason == "crash"
        reason = StopReason.CRASHED if crashed else StopReason.EXITED
        text = "" if how is None else how.report or how.reason
        if self._stops.on_hit is None:
            if self._ended is None:
                self._ended = Stop(reason, domain.id, self.position, text=text)
            self.hv.scheduler.hold()

    def _stop(self, reason: StopReason, domain: int | None = None, text: str = "") -> Stop:
        return Stop(reason, self.current if domain is None else domain, self.position, text=text)

    def _stopped(self, stop: Stop) -> Stop:
        self.last_stop = stop
        return stop

    def _cut(self, position: int) -> None:
        for name in [name for name, at in self.checkpoints.items() if at > position]:
            del self.checkpoints[name]

    # -- stops -----------------------------------------------------------------------------

    @property
    def stops(self) -> dict[int, AnyStop]:
        """What is set, by number. After changing one (``enabled``...) call ``refresh_stops``."""
        return self._stops.stops

    def refresh_stops(self) -> None:
        """Stops were changed in place."""
        self._stops.refresh()

    def add_breakpoint(
        self,
        domain: int,
        va: int,
        *,
        hardware: bool = False,
        temporary: bool = False,
        condition: str | None = None,
    ) -> int:
        """Stop before the instruction at ``va`` of a domain; the breakpoint's number.

        Raises:
            DebugError: no such domain, or a bad condition.
        """
        return self._stops.add_breakpoint(
            domain, va, hardware=hardware, temporary=temporary, condition=condition
        )

    def add_watchpoint(
        self, domain: int, va: int, length: int, kind: WatchKind, condition: str | None = None
    ) -> int:
        """Stop behind the instruction that accesses these bytes; the watchpoint's number.

        Raises:
            DebugError: no such domain, no sensible range, or a bad condition.
        """
        return self._stops.add_watchpoint(domain, va, length, kind, condition)

    def add_catch(self, catch: Catch) -> int:
        """Stop at an event; the catch's number.

        Raises:
            DebugError: it can never happen, or a bad condition.
        """
        return self._stops.add_catch(catch)

    def remove(self, number: int) -> None:
        """Take a breakpoint, watchpoint or catch away.

        Raises:
            DebugError: there is none of that number.
        """
        self._stops.remove(number)

    # -- state -----------------------------------------------------------------------------

    def registers(self, domain: int) -> Registers:
        """All registers of a domain, running or not.

        Raises:
            DebugError: there is no such domain.
        """
        return self.state.registers(domain)

    def set_register(self, domain: int, name: str, value: int) -> None:
        """Write a register.

        Raises:
            DebugError: no such domain or register, or it may not be set.
        """
        self.state.check_settable(domain, name)
        self.timeline.make(
            Input(self.position, "register", domain, name=name, value=value & (1 << 128) - 1)
        )

    def read(self, domain: int, va: int, length: int) -> bytes:
        """Bytes at a linear address; fewer where the mapping ends.

        Raises:
            DebugError: no such domain, or too much is asked for.
        """
        return self.state.read(domain, va, length)

    def read_physical(self, ma: int, length: int) -> bytes:
        """Bytes at a machine address; fewer at the end of machine memory."""
        return self.state.read_physical(ma, length)

    def read_pseudo(self, domain: int, pa: int, length: int) -> bytes:
        """Bytes at a pseudo-physical address of a domain; fewer where a frame is missing.

        Raises:
            DebugError: there is no such domain.
        """
        return self.state.read_pseudo(domain, pa, length)

    def write(self, domain: int, va: int, data: bytes) -> None:
        """Change a domain's memory.

        Raises:
            DebugError: not mapped, or not the domain's alone to change (a shared frame).
        """
        for at, part in self.state.places_to_write(domain, va, data):
            self.timeline.make(Input(self.position, "store", data=part, value=at))
        self._stops.resync()

    def feed(self, domain: int, data: bytes) -> None:
        """Type on a domain's console, when the machine runs on; from any thread."""
        self._typed.append((domain, data))

    def pass_time(self, nanoseconds: int) -> None:
        """Let virtual time go by while nobody runs."""
        self.timeline.make(Input(self.position, "pass", value=nanoseconds))
