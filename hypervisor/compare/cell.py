"""One cell: a machine with the clients of a workload under a system, run to its end and judged.

``run_cell`` gives a dictionary that is JSON as it stands: nothing of the host is in it, so that the
same cell gives the same bytes. ``outcome`` is ``ok`` only if every client verified its contents and
reported all its checks, and if the audit is clean; otherwise ``reason`` says what is wrong.

Raises what a wrong experiment raises (``CompareError``, ``ImageError``, ``DomainError``); an error
in the hypervisor itself is not caught here: whoever runs it makes a lost cell of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any, Final

from emu.units import MFN, PAGE_SIZE
from guests import library
from hypervisor.audit import audit
from hypervisor.builder import build_domain, plan
from hypervisor.compare.errors import CompareError
from hypervisor.compare.files import module_for
from hypervisor.compare.oracle import Snapshot
from hypervisor.compare.probe import SAMPLES_PER_PHASE, Moment, Probe
from hypervisor.compare.systems import SYSTEMS, System
from hypervisor.compare.workloads import WORKLOADS, Workload
from hypervisor.console import Console
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings

CELL_SCHEMA: Final = "cowbird.cell/1"
PHASE: Final = 100_000_000
"""Nanoseconds of virtual time of a phase."""
LIMIT: Final = 4_000_000_000
"""Guest instructions after which a cell is given up."""
_STEP: Final = 50_000_000
_ROOM: Final = 2 << 20
"""Bytes of a client besides its pages, its module and twice the entries of its tables."""
_PROCESSES: Final = 8
"""Times its pages that a client with processes may need."""
_MACHINE_ROOM: Final = 16 << 20
_LATE: Final = "# late"
_KEPT_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """What one run is: names of a system and a workload, and numbers.

    ``pages``: of each client, None for the workload's own number. ``sleep`` (ns) and
    ``scan_pages``: of what works in the background. The rest are settings of the machine.
    """

    system: str
    workload: str
    domains: int
    seed: int = 1
    pages: int | None = None
    sleep: int = 2_000_000
    scan_pages: int = 64
    groups: int = 1
    zero_only: bool = False
    opaque: bool = False

    @property
    def name(self) -> str:
        """A name for it that is unique in a grid, and fit for a file."""
        parts = [self.system, self.workload, f"{self.domains}d", f"s{self.seed}"]
        if self.pages is not None:
            parts.append(f"p{self.pages}")
        for word, value, usual in (
            ("sleep", self.sleep, 2_000_000),
            ("scan", self.scan_pages, 64),
            ("groups", self.groups, 1),
        ):
            if value != usual:
                parts.append(f"{word}{value}")
        parts += [word for word in ("zero_only", "opaque") if getattr(self, word)]
        return "-".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@cache
def kernel(guest: str) -> KernelImage:
    """The kernel of this name in ``guests/lab``. Raises AssemblyError or ImageError."""
    path = library.DIRECTORY / "lab" / f"{guest}{library.SUFFIX}"
    return parse_image(library.build_elf(path), guest)


def _parts(cell: Cell) -> tuple[System, Workload]:
    system, workload = SYSTEMS.get(cell.system), WORKLOADS.get(cell.workload)
    if system is None or workload is None:
        raise CompareError(f"{cell.name}: no such system or workload")
    return system, workload


class Experiment:
    """A cell that is being run."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.system, self.workload = _parts(cell)
        self.pages = self.workload.pages if cell.pages is None else cell.pages
        count = range(cell.domains)
        modules = [module_for(n) if self.workload.module else b"" for n in count]
        memory = [self._memory(len(module)) for module in modules]
        helpers = [h.memory + cell.domains * h.memory_per_client for h in self.system.helpers]
        total = sum(memory) + sum(helpers) + _MACHINE_ROOM
        self.hv = Hypervisor(
            Settings(
                machine_memory=total + (-total) % (1 << 20),
                seed=cell.seed,
                groups=cell.groups,
                zero_only=cell.zero_only,
                opaque=cell.opaque,
            )
        )
        self.probe = Probe(self.hv, PHASE // SAMPLES_PER_PHASE)
        self.lines: list[list[str]] = [[] for _ in count]
        self.helpers = [
            build_domain(
                self.hv,
                kernel(helper.guest),
                memory=size,
                name=helper.guest,
                cmdline=helper.cmdline.format(clients=cell.domains, pages=self.pages),
                module=modules[0] if helper.module and modules[0] else None,
                console=Console(self.probe.helper_line),
            )
            for helper, size in zip(self.system.helpers, helpers, strict=True)
        ]
        disk: set[int] = set()
        self.clients: list[Domain] = []
        for number in count:
            self.clients.append(self._client(number, memory[number], modules[number]))
            disk |= self._disk_of(self.clients[-1], memory[number], len(modules[number]))
        self.probe.clients, self.probe.helpers = self.clients, self.helpers
        self.probe.disk = frozenset(disk)
        if self.system.prepare is not None:
            self.system.prepare(self.hv, self.helpers, self.clients)

    def _memory(self, module: int) -> int:
        pages = self.pages * (1 if self.workload.copies == 1 else _PROCESSES)
        return _ROOM + pages * PAGE_SIZE + module + (-module) % PAGE_SIZE

    def _client(self, number: int, memory: int, module: bytes) -> Domain:
        cell = self.cell
        words = (
            f"{self.workload.cmdline} policy={self.system.policy} pages={self.pages} "
            f"instance={number} seed={cell.seed} domains={cell.domains} phase={PHASE} "
            f"sleep={cell.sleep} scan_pages={cell.scan_pages}"
        )
        if self.helpers:
            words += f" helper={self.helpers[0].id}"
        return build_domain(
            self.hv,
            kernel("lab"),
            memory=memory,
            name="lab",
            cmdline=words,
            module=module or None,
            console=Console(self._client_line(number)),
        )

    def _client_line(self, number: int) -> Callable[[str], None]:
        def line(text: str) -> None:
            self.lines[number].append(text)
            self.probe.line(number, text)

        return line

    def _disk_of(self, domain: Domain, memory: int, module: int) -> set[int]:
        """Frames of a client's module."""
        where = plan(kernel("lab"), memory, module)
        frames = self.hv.frames
        pfns = range(where.module, where.module + where.module_pages)
        mine = {int(frames.m2p(MFN(mfn))): int(mfn) for mfn in frames.owned_by(domain.id)}
        return {mine[pfn] for pfn in pfns}

    # -- running ---------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run to the end; the result."""
        finished = False
        while not finished and self.hv.machine.position < LIMIT:
            finished = self.hv.run(_STEP)
        reason = self._wrong(finished)
        violations = [str(violation) for violation in audit(self.hv)]
        if not reason and violations:
            reason = f"the audit: {violations[0]}"
        result = {
            "schema": CELL_SCHEMA,
            "cell": self.cell.as_json(),
            "name": self.cell.name,
            "pages": self.pages,
            "outcome": "failed" if reason else "ok",
            "reason": reason,
            "audit": violations[:_KEPT_LINES],
            **measured(self.probe, oracle=self.system.oracle),
        }
        if reason:
            result["console"] = [line for lines in self.lines for line in lines[-_KEPT_LINES:]]
        return result

    def _wrong(self, finished: bool) -> str:
        """What is wrong with how the clients ended; empty if nothing is."""
        for number, domain in enumerate(self.clients):
            lines = self.lines[number]
            who = f"domain {number}"
            if any(line.startswith(_LATE) for line in lines):
                return f"{who} fell behind: a phase is too short for so many domains and pages"
            bad = next((line for line in lines if line.startswith("not ok")), None)
            if bad is not None:
                return f"{who}: {bad}"
            if domain.exit is None:
                how = "waits for what does not come" if finished else "did not come to its end"
                return f"{who} {how}"
            if domain.exit.report:
                return f"{who}: {domain.exit.report.partition(chr(10))[0]}"
            planned = next((line for line in lines if line.startswith("1..")), "1..0")
            passed = sum(line.startswith("ok ") for line in lines)
            if not passed or planned != f"1..{passed}":
                return f"{who}: {passed} checks reported, planned were {planned}"
        return "" if self.probe.ended else "no client came to the end of its workload"


def measured(probe: Probe, *, oracle: bool) -> dict[str, Any]:
    """What a cell's run comes to, as JSON. ``oracle``: what is possible counts as saved."""
    counts = probe.counts
    begin = probe.samples[0].time if probe.samples else 0
    return {
        "counts": {
            **{
                name: counts[name]
                for name in (
                    "instructions",
                    "idle",
                    "traps",
                    "page_faults",
                    "cow_faults",
                    "hypercalls",
                    "entries",
                    "flushes",
                    "page_flushes",
                    "switches",
                    "messages",
                    "entered",
                    "merged",
                    "share_calls",
                )
            },
            **{f"guest_{name}": number for name, number in sorted(probe.reported.items())},
        },
        "hypercalls": dict(sorted(probe.hypercalls.items())),
        "phases": [
            {"name": name, **_numbers(moment, begin, oracle)} for name, moment in probe.phases
        ],
        "samples": [_numbers(moment, begin, oracle) for moment in probe.samples],
        "lives": _lives(probe.lives, probe.alive_at_end),
    }


def _numbers(moment: Moment, begin: int, oracle: bool) -> dict[str, int]:
    what: Snapshot = moment.what
    return {
        "time": moment.time - begin,
        "pages": what.pages,
        "frames": what.frames,
        "possible": what.possible,
        "saved": what.possible if oracle else what.saved,
        "zero": what.zero_pages,
        "possible_without_zero": what.possible_without_zero,
        "saved_without_zero": what.possible_without_zero if oracle else what.saved_without_zero,
        "inside": what.inside,
        "overhead": what.overhead,
    }


def _lives(ended: Sequence[int], alive: int) -> Mapping[str, int]:
    """Numbers of the shares' lives, in instructions; those that did not end are only counted."""
    ordered = sorted(ended)
    if not ordered:
        return {"ended": 0, "alive": alive}
    return {
        "ended": len(ordered),
        "alive": alive,
        "median": int(median(ordered)),
        "tenth": ordered[len(ordered) // 10],
        "ninetieth": ordered[len(ordered) * 9 // 10],
        "longest": ordered[-1],
    }


def warm_up(cells: Sequence[Cell]) -> None:
    """Assemble and read what the cells need, once: processes that are forked from this one have it.

    Raises:
        CompareError: there are not enough files.
    """
    kernel("lab")
    for name in {cell.system for cell in cells}:
        for helper in SYSTEMS[name].helpers:
            kernel(helper.guest)
    readers = [cell.domains for cell in cells if WORKLOADS[cell.workload].module]
    for number in range(max(readers, default=0)):
        module_for(number)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run one cell.

    Raises:
        CompareError: it names what there is not, or there are not enough files for its modules.
        DomainError, OutOfFrames: its domains do not fit.
    """
    return Experiment(cell).run()
