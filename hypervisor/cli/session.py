"""One run, as ``boot`` and ``demo`` share it: a machine, its domains, and how it ends.

A session makes the hypervisor with everything that watches it (records, trace, log, audit), adds
domains, runs them in steps so that Ctrl-C and progress get their turn, and judges the end. Steps
are of a fixed number of instructions, so that nothing a person sees or does changes a run.
"""

import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import click

from hypervisor.abi import Virq
from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.cli import logs
from hypervisor.cli.exitcodes import EXIT_CODES
from hypervisor.cli.interactive import Attendant, InteractiveConsole
from hypervisor.cli.options import size_text
from hypervisor.cli.screen import Screen, Verdicts
from hypervisor.cli.signals import Terminated, exit_code, handled_by, word
from hypervisor.cli.sources import Source
from hypervisor.console import Console
from hypervisor.disk import DiskImage, Mode
from hypervisor.domain import Domain, State
from hypervisor.errors import DomainError, OutOfFrames
from hypervisor.hypervisor import Hypervisor, Listener
from hypervisor.results import Audited, DomainRecord, Outcome, Recorder, document, judge
from hypervisor.settings import Settings
from hypervisor.trace import Tracer

STEP: Final = 5_000_000
"""Instructions between two looks at Ctrl-C: some hundredths of a second."""
DEFAULT_LIMIT: Final = 3_000_000_000
"""Instructions of a whole run: about a minute of a busy guest, much more of one that waits for
keys. Nothing runs for ever unless asked."""
_QUIET: Final = 50_000_000
"""Instructions, about a second, after which a single guest that printed nothing shows progress."""
_MAX_VIOLATIONS: Final = 100


class Session:
    """A machine and what watches it.

    ``limit`` bounds guest instructions, 0 for none. ``trace`` writes a line of the trace,
    ``trace_frames`` puts the changes of frames into it.

    Raises:
        MachineError: no machine of that size can be had.
        OutOfFrames: it is too small for the hypervisor itself.
    """

    def __init__(
        self,
        settings: Settings,
        limit: int,
        screen: Screen,
        trace: Callable[[str], object] | None = None,
        trace_frames: bool = False,
    ) -> None:
        self.limit = limit
        self.screen = screen
        self.hv = Hypervisor(settings)
        self.recorder = Recorder(self.hv)
        self.finished = False
        self.interruption: KeyboardInterrupt | None = None
        """What ended the run from outside, if anything did."""
        self.error: str | None = None
        self._checks = 0
        self._violations: list[str] = []
        self._used = 0
        self._joined: tuple[Domain | None, InteractiveConsole | None] = (None, None)
        self._attendant: Attendant | None = None
        self._starved = False
        self._verdicts: list[Verdicts] = []
        self._replaying: Callable[[], bool] = lambda: False
        self.shows_reports = True
        """Whether the report of a domain's crash is printed when it comes."""
        self.tracer = None if trace is None else Tracer(self.hv, trace, frames=trace_frames)
        logs.follow(self.hv)
        self.hv.listen(self._happened)

    # -- domains ---------------------------------------------------------------------------

    def add(
        self,
        source: Source,
        memory: int | None,
        *,
        module: bytes | None = None,
        module_name: str | None = None,
        cmdline: str = "",
        disks: Sequence[tuple[str, Mode]] = (),
        interactive: bool = False,
        show: bool = True,
    ) -> Domain:
        """Build a domain of ``memory`` bytes (None: the guest's own); ``run`` lets it run.

        ``interactive`` joins its console to stdin and stdout as it is; others are shown line by
        line behind the domain's name, or not at all if ``show`` is False. ``module_name`` is what
        the result calls the module. ``disks``: image files, the first is xvda.

        Raises:
            DiskError: a disk image cannot be used so.
            DomainError: the kernel or its module does not fit.
            OutOfFrames: machine memory is used up.
        """
        if memory is None:
            memory = source.default_memory(module)
        record = DomainRecord(0, source.name, source.given, module_name, 0)
        record.disks = tuple(f"{path}:{mode.value}" for path, mode in disks)
        verdicts = Verdicts(record, self.screen.guest_line if show and not interactive else None)

        self._verdicts.append(verdicts)

        def take(line: str) -> None:
            if not self._replaying():
                verdicts(line)

        joined: InteractiveConsole | None = None
        if interactive:
            joined = InteractiveConsole(take, self.screen.raw, lambda: self.interrupted)
        try:
            domain = build_domain(
                self.hv,
                source.kernel,
                memory=memory,
                name=source.name,
                console=joined or Console(take),
                module=module,
                cmdline=cmdline,
            )
        except (DomainError, OutOfFrames) as error:
            number = len(self.hv.domains) + 1
            raise DomainError(f"domain {number} ({size_text(memory)}): {error}") from error
        for path, mode in disks:
            self.hv.disks.attach(domain, DiskImage(path, mode))
        verdicts.console = domain.console
        self._joined = (domain, joined)
        self._attendant = None if joined is None else Attendant(self.hv, domain, joined)
        self.recorder.add(domain, record)
        return domain

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if kind == "exit" and domain is not None:
            domain.console.flush()
            if self.shows_reports and domain.exit is not None and domain.exit.report:
                self.screen.tell(domain.exit.report.rstrip("\n"))
        if kind in ("hypercall", "destroy") and self.hv.settings.audit:
            self.audit()
        if self.screen.shows_progress:
            self.screen.progress(self._progress_text)

    def only_once(self, replaying: Callable[[], bool]) -> None:
        """Have nothing printed, counted or traced twice: for a debugger, which goes back in time.

        ``replaying``: true while instructions run again that ran before. At the beginning of a new
        future call ``forget_future``; a trace has to be told too (``Tracer.cut``), and ends there.
        """

        def told_once(listener: Listener) -> Listener:
            def listen(kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
                if not replaying():
                    listener(kind, domain, details)

            return listen

        self._replaying = replaying
        self.hv.listeners[:] = [told_once(listener) for listener in self.hv.listeners]

    def forget_future(self) -> None:
        """What happened behind the present moment did not happen: count again from here."""
        self.recorder.rebase()
        for verdicts in self._verdicts:
            verdicts.recount()

    def _progress_text(self) -> str:
        hv = self.hv
        return (
            f"{len(hv.domains)} domain{'s' if len(hv.domains) != 1 else ''}  "
            f"{hv.sharing.saved:,} frames saved  "
            f"{hv.sharing.cow_faults:,} faults  "
            f"{hv.machine.position:,} instructions"
        )

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C or SIGTERM ended the run."""
        return self.interruption is not None

    def exit_code(self, outcome: Outcome) -> int:
        """The command's exit code for this outcome."""
        if outcome is Outcome.INTERRUPTED:
            return exit_code(self.interruption)
        return EXIT_CODES[outcome]

    # -- running ---------------------------------------------------------------------------

    def run(self) -> None:
        """Run until no domain can, the limit is reached, or somebody presses Ctrl-C.

        What goes wrong in the hypervisor ends the run and is kept in ``error``; with ``--log
        debug`` the traceback is logged.

        Raises:
            OSError: a console or the trace cannot be written.
            click.ClickException: the same, with the file's name.
        """
        self.finished = False
        with self._interruptible():
            try:
                while not self.finished and not self.interrupted and not self._broken():
                    step = STEP if self._attendant is None else self._attendant.step(STEP)
                    if self.limit:
                        step = min(step, self.limit - self._used)
                    if step <= 0:
                        return
                    before = self.hv.machine.position
                    self.finished = self.hv.run(step)
                    self._used += self.hv.machine.position - before
                    self._show_that_it_runs()
                    if self.finished and self._typed():
                        self.finished = False
                    if self._attendant is not None and not self._attendant.attend():
                        self.finished = self._starved = True
            except (OSError, click.ClickException):
                raise  # only what writes consoles and the trace does any input or output
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug of ours
                self.fail(error)

    def _show_that_it_runs(self) -> None:
        """Draw progress for a single guest that has run for long and printed nothing."""
        console = self._joined[1]
        if console is not None and not console.written and self._used >= _QUIET:
            self.screen.start_progress()
            self.screen.progress(self._progress_text)

    def _typed(self) -> bool:
        """Nothing can run: if that is because a guest waits for keys, wait for one."""
        domain, console = self._joined
        if domain is None or console is None or domain.exit is not None:
            return False
        events = self.hv.events
        ring = self.hv.console_ring(domain)
        reads_ring = ring is not None and ring.used
        if domain.state is not State.BLOCKED:
            return False
        if not reads_ring and not events.port_of(domain, Virq.CONSOLE):
            return False
        if not console.wait():
            return False
        events.raise_virq(domain, Virq.CONSOLE)
        return domain.state is not State.BLOCKED

    def _broken(self) -> bool:
        return self.hv.settings.audit and bool(self._violations)

    def fail(self, error: Exception) -> None:
        """Something that must not happen did."""
        logging.getLogger("cowbird").debug("%s", traceback.format_exc())
        at = f"at position {self.hv.machine.position:,}"
        self.error = f"{type(error).__name__}: {error} ({at})"

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM ends the run after the step in hand; a second one at once."""

        def interrupt(number: int, _frame: FrameType | None) -> None:
            ctrl_c = number == signal.SIGINT
            interruption = KeyboardInterrupt() if ctrl_c else Terminated(number)
            if self.interruption is not None:
                raise interruption
            self.interruption = interruption

        with handled_by(interrupt):
            yield

    # -- the end ---------------------------------------------------------------------------

    def audit(self) -> None:
        """Check the invariants now and keep what is found."""
        self._checks += 1
        room = _MAX_VIOLATIONS - len(self._violations)
        self._violations.extend(str(violation) for violation in audit(self.hv)[:room])

    @property
    def audited(self) -> Audited:
        """What the audits found so far."""
        return Audited(self._checks, tuple(self._violations))

    def finish(self, *, explain: bool = True) -> Outcome:
        """Audit once more, show what is left to show, and say how the run ended.

        ``explain``: also in words; a debugger has told what happened.
        """
        if self.error is None:
            try:
                self.audit()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug of ours
                self.fail(error)
        self.screen.stop_progress()
        for domain in self.hv.domains.values():
            domain.console.flush()
        outcome = judge(
            self.recorder.records(),
            self.audited,
            finished=self.finished,
            interrupted=self.interrupted,
            error=self.error is not None,
        )
        if explain:
            self._explain(outcome)
        return outcome

    def _explain(self, outcome: Outcome) -> None:
        """One line on stderr for every way to end but the good one (crashes: the report)."""
        tell = self.screen.tell
        for record in self.recorder.records():
            reported = record.ok_lines + record.not_ok_lines
            if record.exit is not None and not record.crashed and reported < record.planned:
                tell(
                    f"cowbird: d{record.id} {record.name}: {reported} of {record.planned} planned"
                    f" check{'s' if record.planned != 1 else ''} reported"
                )
        left = [r for r in self.recorder.records() if r.exit is None]
        names = ", ".join(f"d{r.id} {r.name}" for r in left[:4])
        if len(left) > 4:
            names += f" and {len(left) - 4} more"
        if outcome is Outcome.INTERRUPTED:
            how = word(self.exit_code(outcome))
            tell(f"cowbird: {how} after {self.hv.machine.position:,} instructions")
        elif outcome is Outcome.LIMIT:
            tell(f"cowbird: the limit of {self.limit:,} instructions was reached by {names}")
        elif outcome is Outcome.STUCK:
            what = "input, which has ended" if self._starved else "events"
            tell(f"cowbird: nothing can run any more: {names} waiting for {what}")
        elif outcome is Outcome.HYPERVISOR_ERROR:
            for violation in self._violations:
                tell(f"cowbird: audit: {violation}")
            if self.error is not None:
                hint = "see the log above" if logs.debugging() else "--log debug shows where"
                tell(
                    f"cowbird: error: a bug of the hypervisor, not of a guest: {self.error}; {hint}"
                )

    def document(self, outcome: Outcome, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result as data (see ``hypervisor.results``)."""
        code = self.exit_code(outcome)
        return document(self.hv, self.recorder, self.audited, outcome, code, self.limit, extra)

    def records(self) -> list[DomainRecord]:
        """All domains, in order of creation."""
        return self.recorder.records()
