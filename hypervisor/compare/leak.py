"""The leak: what a domain finds out by ``make_ro_and_share`` about another one's pages.

A victim has some of 64 contents, a spy guesses which (``guests/lab/leak.asm``), by several ways of
looking, under each setting of the machine. A success rate of a half is that of a coin; the secrets
have as many ones as zeros. Beside it stands what the setting costs: frames that ``share`` saves
over time with it, against those it saves without.

The time that things take is virtual here: instructions of the guest. It does not depend on what the
hypervisor does in a call, so that ways that look at time find nothing; on hardware they do. So a
half there says nothing about hardware, and the report says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean
from typing import Any, Final

from hypervisor.builder import build_domain
from hypervisor.compare.cell import Cell, kernel
from hypervisor.compare.errors import CompareError
from hypervisor.compare.summary import row_of
from hypervisor.console import Console
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings

CONTENTS: Final = 64
TRIALS: Final = 4
WAYS: Final = {
    "status": "status of the call",
    "frame": "changed frame number",
    "next": "frame of the next allocation",
    "call_time": "time of the call",
    "copy_time": "time of the write and its copy",
}
"""Ways of looking: name in the guest's output, and in words."""
WORKLOADS: Final = ("boot", "pagecache", "zero", "identical")
"""Workloads over which the cost of a setting in savings is measured."""
DOMAINS: Final = 4
_MEMORY: Final = 2 << 20
_LIMIT: Final = 1_000_000_000
_LINE: Final = "# leak "


@dataclass(frozen=True, slots=True)
class Mitigation:
    """A setting of the machine."""

    name: str
    description: str
    groups: int = 1
    zero_only: bool = False
    opaque: bool = False

    def cell(self, workload: str, seed: int) -> Cell:
        """The cell that shows what ``share`` saves with it."""
        return Cell(
            "share",
            workload,
            DOMAINS,
            seed,
            groups=self.groups,
            zero_only=self.zero_only,
            opaque=self.opaque,
        )


MITIGATIONS: Final = (
    Mitigation("default", "one group, full status"),
    Mitigation("groups", "two sharing groups; the spy is not in the victim's", groups=2),
    Mitigation("zero_only", "only pages of zeros are shared", zero_only=True),
    Mitigation("opaque", "the frame changes and the status is 0, merged or not", opaque=True),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a spy found under one setting: success by way of looking, 0 to 1; and what it costs."""

    mitigation: Mitigation
    success: Mapping[str, float]
    saved: Mapping[str, float]
    """Workload -> mean saved frames."""
    kept: Mapping[str, float]
    """Workload -> part of the default's savings that is left."""

    def as_json(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "mitigation": self.mitigation.name,
            "description": self.mitigation.description,
            "success": dict(self.success),
            "saved": dict(self.saved),
            "kept": dict(self.kept),
        }


def secret_of(seed: int, trial: int) -> int:
    """64 bits, 32 of them set."""
    bits = Random(seed * 1_000 + trial).sample(range(CONTENTS), CONTENTS // 2)
    return sum(1 << bit for bit in bits)


def spy(mitigation: Mitigation, seed: int, trial: int) -> dict[str, float]:
    """One trial: by way of looking, the part of the 64 bits that the spy has right.

    Raises:
        CompareError: one of the guests failed.
    """
    secret = secret_of(seed, trial)
    hv = Hypervisor(
        Settings(
            machine_memory=16 << 20,
            seed=seed * 1_000 + trial,
            groups=mitigation.groups,
            zero_only=mitigation.zero_only,
            opaque=mitigation.opaque,
        )
    )
    lines: list[str] = []
    for words in (f"role=victim secret={secret:#x}", "role=spy"):
        build_domain(
            hv,
            kernel("leak"),
            memory=_MEMORY,
            name=words.partition(" ")[0],
            cmdline=words,
            console=Console(lines.append),
        )
    hv.run(_LIMIT)
    guesses = dict(line[len(_LINE) :].split("=") for line in lines if line.startswith(_LINE))
    bad = next((line for line in lines if line.startswith(("not ok", "panic"))), None)
    if bad is not None or set(guesses) != set(WAYS):
        raise CompareError(f"leak, {mitigation.name}: {bad or 'the spy says nothing'}")
    return {way: 1 - (secret ^ int(guesses[way], 16)).bit_count() / CONTENTS for way in WAYS}


def cells(seed: int) -> list[Cell]:
    """The cells that tell what each setting costs in savings."""
    return [setting.cell(workload, seed) for setting in MITIGATIONS for workload in WORKLOADS]


def find(results: Iterable[Mapping[str, Any]], seed: int) -> list[Finding]:
    """Spy under every setting; ``results`` are those of ``cells``, or some of them.

    Raises:
        CompareError: a guest failed.
    """
    saved = {result["name"]: row_of(result).values.get("mean_saved") for result in results}
    findings: list[Finding] = []
    for setting in MITIGATIONS:
        trials = [spy(setting, seed, trial) for trial in range(TRIALS)]
        mine = {
            workload: float(number)
            for workload in WORKLOADS
            if (number := saved.get(setting.cell(workload, seed).name)) is not None
        }
        usual = findings[0].saved if findings else mine
        findings.append(
            Finding(
                setting,
                {way: round(mean(trial[way] for trial in trials), 4) for way in WAYS},
                mine,
                {
                    workload: round(number / usual[workload], 4)
                    for workload, number in mine.items()
                    if usual.get(workload)
                },
            )
        )
    return findings


def lines_of(findings: Sequence[Finding], *, brief: bool = False) -> list[list[str]]:
    """The table: a header, and a line for each setting. ``brief``: with short headings."""
    ways = [way.replace("_", " ") for way in WAYS] if brief else list(WAYS.values())
    kept = [f"{name} kept" if brief else f"{name}: savings kept" for name in WORKLOADS]
    table = [["setting", *ways, *kept]]
    for finding in findings:
        success = (f"{100 * finding.success[way]:.0f}%" for way in WAYS)
        savings = (
            f"{100 * finding.kept[name]:.0f}%" if name in finding.kept else "-"
            for name in WORKLOADS
        )
        table.append([finding.mitigation.name, *success, *savings])
    return table
