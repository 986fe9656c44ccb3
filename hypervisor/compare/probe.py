"""What is counted while a cell runs: events by kind, how long shares live, samples over time.

The probe listens to the hypervisor. It counts from the first client's ``# mark begin`` to the first
one's ``# mark end``: all clients begin and end their phases at the same moments of virtual time.
At every mark, and at equal steps of time in between, the oracle takes a snapshot; a mark's snapshot
is what the phase before it has come to.

A *share* begins when an entry is made to map a shared frame (``make_ro_and_share``, or a further
mapping) and ends when that entry lets go of it. Entries of one domain that map one frame are not
told apart: the oldest is taken to go first. Its life is measured in guest instructions of all
domains.
"""

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hypervisor.abi import EvtchnOp
from hypervisor.compare.oracle import Snapshot, snapshot
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

BEGIN: Final = "begin"
END: Final = "end"
_MARK: Final = "# mark "
_LAB: Final = "# lab "
SAMPLES_PER_PHASE: Final = 40


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot and its virtual time in ns since the machine was made."""

    time: int
    what: Snapshot


@dataclass
class Probe:
    """Counts and samples of one machine. ``step``: ns between two samples."""

    hv: "Hypervisor"
    step: int
    clients: list[Domain] = field(default_factory=list)
    helpers: list[Domain] = field(default_factory=list)
    disk: Collection[int] = ()
    counts: Counter[str] = field(default_factory=Counter)
    hypercalls: Counter[str] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)
    """What the guests say that they counted, summed up."""
    samples: list[Moment] = field(default_factory=list)
    phases: list[tuple[str, Moment]] = field(default_factory=list)
    """Name of a phase, and what it had come to at its end."""
    lives: list[int] = field(default_factory=list)
    """Lives of the shares that ended, in instructions."""
    running: bool = False
    ended: bool = False
    alive_at_end: int = 0
    """Shares that had not ended when the workload did."""
    _marks: Counter[int] = field(default_factory=Counter)
    """Marks that each client has come to."""
    _reached: int = 0
    """Marks that the first client has come to."""
    _pending: str | None = None
    _phase: str = ""
    _next: int = 0
    _before: dict[str, int] = field(default_factory=dict)
    _begun: dict[tuple[int, int], deque[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hv.listen(self._happened)

    # -- consoles --------------------------------------------------------------------------

    def line(self, client: int, text: str) -> None:
        """The client with this number has printed a line."""
        if text.startswith(_MARK):
            self._marks[client] += 1
            if self._marks[client] > self._reached:
                self._reached += 1
                self._pending = text[len(_MARK) :].strip()
        elif text.startswith(_LAB):
            self._report(text)

    def helper_line(self, text: str) -> None:
        """A helper has printed a line; what it counted is named ``helper_NAME``."""
        if text.startswith(_LAB):
            self._report(text, "helper_")

    def _report(self, text: str, prefix: str = "") -> None:
        name, _, value = text[len(_LAB) :].strip().partition("=")
        if value.isdigit():
            self.reported[prefix + name] += int(value)

    def _look(self) -> None:
        """Take a snapshot if it is time for one, or if a mark was reached."""
        now = self.hv.scheduler.now()
        mark, self._pending = self._pending, None
        if mark == BEGIN:
            self.running = True
            self._before = self._machine_counts()
        due = self._next if self._next < now else now
        if not self.running or (mark is None and now < self._next):
            return
        what = snapshot(self.hv, self.clients, self.helpers, self.disk)
        if mark is None or (self.samples and due < now):
            # Nobody did anything since that moment: it was as it is now.
            self.samples.append(Moment(due, what))
        moment = Moment(now, what)
        self._next = now - now % self.step + self.step
        if mark is None:
            return
        self.samples.append(moment)
        if self._phase:
            self.phases.append((self._phase, moment))
        self._phase = mark
        if mark == END:
            self.running, self.ended = False, True
            self.alive_at_end = sum(map(len, self._begun.values()))
            before = self._before
            self.counts.update({k: n - before[k] for k, n in self._machine_counts().items()})

    def _machine_counts(self) -> dict[str, int]:
        hv = self.hv
        return {
            "instructions": hv.machine.position,
            "idle": hv.scheduler.skipped,
            "flushes": hv.machine.coherence.flushes,
            "page_flushes": hv.machine.coherence.page_flushes,
            "switches": hv.counters["switches"],
            "cow_faults": hv.sharing.cow_faults,
            "entered": hv.sharing.entered,
            "merged": hv.sharing.merged,
            "share_calls": hv.sharing.counters["calls"],
        }

    # -- events ----------------------------------------------------------------------------

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if domain is None:
            return
        if kind in ("share", "map_again"):
            self._begins(domain, details["mfn"])
        elif kind == "drop":
            self._ends(domain, details["mfn"])
        elif kind == "trap" and self.running:
            self.counts["traps"] += 1
            if details["vector"] == 14:
                self.counts["page_faults"] += 1
        elif kind == "hypercall":
            if self.running:
                self._hypercall(details["name"], details["arguments"])
            self._look()

    def _hypercall(self, name: str, arguments: Sequence[int]) -> None:
        self.hypercalls[name] += 1
        self.counts["hypercalls"] += 1
        if name == "event_channel_op" and arguments[0] & 0xFFFF_FFFF == EvtchnOp.send:
            self.counts["messages"] += 1
        elif name == "mmu_update":
            self.counts["entries"] += arguments[1] & 0x7FFF_FFFF
        elif name == "update_va_mapping":
            self.counts["entries"] += 1

    def _begins(self, domain: Domain, mfn: int) -> None:
        self._begun.setdefault((domain.id, mfn), deque()).append(self.hv.machine.position)

    def _ends(self, domain: Domain, mfn: int) -> None:
        begun = self._begun.get((domain.id, mfn))
        if begun:
            since = begun.popleft()
            if self.running:
                self.lives.append(self.hv.machine.position - since)
