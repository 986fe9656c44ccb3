"""The result of a run as data: what ``--json`` writes, and what the tables are made from.

The format is ``hypervisor/schema/run-1.json`` (JSON Schema), named ``cowbird.run/1`` in every
document. A later version may add keys under the same name; a key that changes its meaning or goes
away makes it ``cowbird.run/2``.

Invariants: a document holds nothing of the host and no time but guest instructions; keys are
sorted; so that equal arguments, files and seed give equal bytes. Frames are counts of 4 KiB. The
numbers of a domain that has ended are those at its end, *before* its frames were given back:
``Recorder`` takes them when the hypervisor says ``exit``, and how many entries went with the domain
when it says ``destroy``.

How it fails: it does not; it only reads what the hypervisor keeps.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from importlib import resources
from typing import Any, Final

from hypervisor.domain import Domain, Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.sharing import MERGED

SCHEMA: Final = "cowbird.run/1"
_SCHEMA_FILE: Final = "run-1.json"

MACHINE_COUNTERS: Final = (
    "again",
    "cow_faults",
    "crashes",
    "domains_created",
    "domains_destroyed",
    "dropped:teardown",
    "dropped:update",
    "entered",
    "freed",
    "mapped_again",
    "merged",
    "share_calls",
    "share_refused",
    "switches",
)
"""Counters of the machine that are always there, 0 if nothing was counted."""
DOMAIN_COUNTERS: Final = (
    "again",
    "cow_faults",
    "dropped:teardown",
    "dropped:update",
    "entered",
    "hypercalls",
    "mapped_again",
    "merged",
    "page_faults",
    "share_calls",
    "share_refused",
)
"""Counters of a domain that are always there."""
_TEARDOWN: Final = "dropped:teardown"
_GOOD_EXITS: Final = frozenset({"poweroff", "reboot", "suspend", "soft_reset", "destroyed"})


class Outcome(Enum):
    """How a run ended as a whole; the first that is true of it, in this order."""

    INTERRUPTED = "interrupted"
    """Somebody pressed Ctrl-C."""
    HYPERVISOR_ERROR = "hypervisor error"
    """The audit found violations, or the hypervisor raised: a bug of ours."""
    CRASHED = "crashed"
    """A domain could not go on, or said so by SHUTDOWN_crash."""
    FAILED = "failed"
    """A guest reported failure: a ``not ok`` line, fewer ``ok`` lines than its plan said, or
    SHUTDOWN_watchdog."""
    LIMIT = "limit"
    """The instructions were used up before every domain had ended."""
    STUCK = "stuck"
    """Domains are left that wait for events which nothing can send any more."""
    OK = "ok"
    """Every domain ended by itself and none reported failure."""


@dataclass(slots=True)
class DomainRecord:
    """One domain's numbers: at its end if it has ended, else now.

    ``image`` and ``module`` are what it was made from, as the user named them.
    """

    id: int
    name: str
    image: str
    module: str | None
    group: int
    exit: Exit | None = None
    width: int = 64
    """Bits of its ``unsigned long``: 64, or 32 for a PAE guest."""
    frames: int = 0
    """Frames that it owns, shared ones not among them."""
    shared_mappings: int = 0
    """Entries of its tables that map shared frames."""
    peak_shared_mappings: int = 0
    shared_frames: int = 0
    saved: float = 0.0
    """Its part of the machine's saved frames (``Sharing.saved_by``)."""
    histogram: Mapping[int, int] = field(default_factory=dict)
    instructions: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    """Checks that it announced (KTAP's plan line ``1..N``)."""
    ok_lines: int = 0
    not_ok_lines: int = 0
    disks: tuple[str, ...] = ()
    """Its disk images, in the order of their names: path and mode (``cow``, ``ro``, ``rw``)."""

    @property
    def crashed(self) -> bool:
        """True if it could not go on, or said so; there is a crash report."""
        return self.exit is not None and bool(self.exit.report)

    @property
    def failed(self) -> bool:
        """True if the guest itself reported failure, or ended before all that it had planned."""
        if self.not_ok_lines:
            return True
        if self.exit is not None and self.ok_lines < self.planned:
            return True
        return self.exit is not None and not self.crashed and self.exit.reason not in _GOOD_EXITS

    def as_json(self) -> dict[str, Any]:
        """The object that stands in ``domains``."""
        ending = None
        if self.exit is not None:
            ending = {"reason": self.exit.reason, "code": self.exit.code}
        return {
            "id": self.id,
            "name": self.name,
            "image": self.image,
            "module": self.module,
            "disks": list(self.disks),
            "width": self.width,
            "group": self.group,
            "exit": ending,
            "frames": self.frames,
            "shared_mappings": self.shared_mappings,
            "peak_shared_mappings": self.peak_shared_mappings,
            "shared_frames": self.shared_frames,
            "saved": round(self.saved, 3),
            "histogram": _histogram(self.histogram),
            "instructions": self.instructions,
            "counters": _counters(self.counters, DOMAIN_COUNTERS),
            "reports": {
                "planned": self.planned,
                "ok": self.ok_lines,
                "not_ok": self.not_ok_lines,
            },
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """The machine's frames at one moment.

    ``used + saved`` frames would be in use there without sharing.
    """

    position: int
    """Guest instructions started on the machine."""
    domains: int
    """Domains that existed."""
    used: int
    """Frames not free: domains', shared, and the hypervisor's own."""
    shared: int
    mappings: int
    """Entries that map shared frames."""
    saved: int
    """``mappings - shared``."""
    histogram: Mapping[int, int]
    """Sharing count -> shared frames with that count."""

    def as_json(self) -> dict[str, Any]:
        """The object that stands in ``machine.peak``."""
        return {**asdict(self), "histogram": _histogram(self.histogram)}


def _counters(counted: Mapping[str, int], always: Iterable[str]) -> dict[str, int]:
    return {**dict.fromkeys(always, 0), **counted}


def _histogram(histogram: Mapping[int, int]) -> dict[str, int]:
    return {str(count): frames for count, frames in sorted(histogram.items())}


def machine_counters(hv: Hypervisor) -> dict[str, int]:
    """All counters of the machine under one set of names.

    The sharing counter ``calls`` is ``share_calls`` here, as it is in a domain.
    """
    sharing = dict(hv.sharing.counters)
    sharing["share_calls"] = sharing.pop("calls", 0)
    sharing["share_refused"] = sum(n for k, n in sharing.items() if k.startswith("refused:"))
    return _counters({**hv.counters, **sharing}, MACHINE_COUNTERS)


class Recorder:
    """Follows a hypervisor and keeps what is gone by the end of the run.

    Make it before the first domain. It notes every domain's numbers at its end and the machine's
    frames at the peak: the last moment at which as much was saved as ever.
    """

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._domains: dict[int, tuple[Domain, DomainRecord]] = {}
        self._histogram: Counter[int] = Counter()
        self._best = 0
        self._at_best = False
        self._peak: Moment | None = None
        hv.listen(self._happened)

    def add(self, domain: Domain, record: DomainRecord) -> None:
        """Keep a new domain's numbers in ``record`` (id, name and group are filled in here)."""
        record.id, record.name, record.group = domain.id, domain.name, domain.group
        self._domains[domain.id] = (domain, record)

    def rebase(self) -> None:
        """The machine was put back to an earlier moment, and goes on differently from there.

        The peak is lost if it lay in what did not happen.
        """
        self._histogram = Counter(self._hv.sharing.histogram())
        if self._at_best or (self._peak and self._peak.position > self._hv.machine.position):
            self._peak = None
            self._best = self._hv.sharing.saved
            self._at_best = True
        for number, (_, record) in list(self._domains.items()):
            domain = self._hv.domains.get(number)
            if domain is not None:
                self._domains[number] = (domain, record)
                record.exit = domain.exit

    def records(self) -> list[DomainRecord]:
        """All domains in order of creation, brought up to date."""
        for domain, record in self._domains.values():
            record.instructions = domain.instructions
            if record.exit is None:
                self._take(domain, record)
        return [record for _, record in self._domains.values()]

    def moment(self) -> Moment:
        """The machine's frames now."""
        return self._moment(0, self._histogram)

    @property
    def peak(self) -> Moment:
        """The moment at which the most was saved; the present one if nothing was."""
        if self._at_best or self._peak is None:
            return self.moment()
        return self._peak

    def _moment(self, dropped: int, histogram: Mapping[int, int]) -> Moment:
        """The present, or, with ``dropped`` = 1, as it was before the drop in hand."""
        hv = self._hv
        mappings = hv.sharing.mappings + dropped
        return Moment(
            hv.machine.position,
            len(hv.domains),
            hv.frames.total - hv.frames.free,
            hv.frames.shared,
            mappings,
            mappings - hv.frames.shared,
            {count: frames for count, frames in histogram.items() if frames},
        )

    def _take(self, domain: Domain, record: DomainRecord) -> None:
        record.exit = domain.exit
        record.width = domain.width
        record.frames = domain.pages
        record.shared_mappings = domain.shared_mappings
        record.peak_shared_mappings = domain.peak_shared_mappings
        record.shared_frames = len(domain.shared)
        record.saved = self._hv.sharing.saved_by(domain)
        record.histogram = self._hv.sharing.histogram_of(domain)
        record.counters = Counter(domain.counters)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        histogram = self._histogram
        if kind == "share":
            count = self._hv.frames.refs[details["mfn"]] if details["status"] == MERGED else 1
            self._up(histogram, count)
        elif kind == "map_again":
            self._up(histogram, details["count"])
        elif kind == "drop":
            if self._at_best:
                # Frames are still as they were: the drop is told before anything is freed.
                self._peak = self._moment(1, histogram)
                self._at_best = False
            left = details["count"]
            histogram[left + 1] -= 1
            if left:
                histogram[left] += 1
        elif kind == "exit" and domain is not None and domain.id in self._domains:
            if self._at_best:
                self._peak = self.moment()
                self._at_best = False
            self._take(domain, self._domains[domain.id][1])
        elif kind == "destroy" and domain is not None and domain.id in self._domains:
            _, record = self._domains[domain.id]
            record.counters[_TEARDOWN] = domain.tally[_TEARDOWN]

    def _up(self, histogram: Counter[int], count: int) -> None:
        if count > 1:
            histogram[count - 1] -= 1
        histogram[count] += 1
        saved = self._hv.sharing.saved
        if saved > self._best:
            self._best = saved
            self._at_best = True


@dataclass(frozen=True, slots=True)
class Audited:
    """What the audits of a run found: how many there were, and all violations in words."""

    checks: int
    violations: tuple[str, ...] = ()


def judge(
    records: Iterable[DomainRecord],
    audited: Audited,
    *,
    finished: bool,
    interrupted: bool = False,
    error: bool = False,
) -> Outcome:
    """How the run ended. ``finished`` is what ``Hypervisor.run`` returned."""
    records = list(records)
    if interrupted:
        return Outcome.INTERRUPTED
    if error or audited.violations:
        return Outcome.HYPERVISOR_ERROR
    if any(record.crashed for record in records):
        return Outcome.CRASHED
    if any(record.failed for record in records):
        return Outcome.FAILED
    if not finished:
        return Outcome.LIMIT
    if any(record.exit is None for record in records):
        return Outcome.STUCK
    return Outcome.OK


def document(
    hv: Hypervisor,
    recorder: Recorder,
    audited: Audited,
    outcome: Outcome,
    exit_code: int,
    limit: int,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole result. ``limit``: instructions, 0 for none; ``extra``: keys of one command."""
    settings = {**asdict(hv.settings), "limit": limit}
    frames, sharing = hv.frames, hv.sharing
    return {
        "schema": SCHEMA,
        "seed": hv.settings.seed,
        "settings": settings,
        "outcome": outcome.value,
        "exit_code": exit_code,
        "machine": {
            "frames": frames.total,
            "free": frames.free,
            "shared": frames.shared,
            "mappings": sharing.mappings,
            "saved": sharing.saved,
            "peak_saved": sharing.peak_saved,
            "peak": recorder.peak.as_json(),
            "histogram": _histogram(sharing.histogram()),
            "instructions": hv.machine.position,
            "counters": machine_counters(hv),
        },
        "domains": [record.as_json() for record in recorder.records()],
        "audit": {"checks": audited.checks, "violations": list(audited.violations)},
        **(extra or {}),
    }


def encode(result: Mapping[str, Any]) -> str:
    """The document as text: sorted keys, two spaces, a newline at the end."""
    return json.dumps(result, sort_keys=True, indent=2) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a result."""
    text = resources.files("hypervisor").joinpath("schema", _SCHEMA_FILE).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
