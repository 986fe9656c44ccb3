"""What the results of cells come to: one row of numbers for each, and means over seeds.

Averages over time weigh each sample by the virtual time until the next one. ``achieved`` is saved
frames over those that could be saved; a workload that comes to rest is judged at that moment, all
are judged over time. ``cycles`` are estimates (``cost``), and ``cycles_l4`` those with an L4
kernel's switch of address spaces; ``over_none`` is what a system costs beyond ``none`` in the same
place.

Rows hold numbers only, rounded in one place, so that the same results give the same tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from hypervisor.compare.cost import L4_SWITCH, cycles
from hypervisor.compare.workloads import WORKLOADS

Result = Mapping[str, Any]
Number = float | int | None

NONE: Final = "none"
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Column:
    """A number of a row: its key, what a table calls it, and what it is."""

    key: str
    title: str
    meaning: str
    percent: bool = False
    brief: bool = False
    """True if a terminal shows it; files have all."""


COLUMNS: Final = (
    Column(
        "at_rest",
        "at rest",
        "saved / possible when the contents have come to rest, if they do",
        percent=True,
        brief=True,
    ),
    Column(
        "achieved", "over time", "saved / possible, averaged over time", percent=True, brief=True
    ),
    Column("peak_saved", "peak", "most frames saved at one moment", brief=True),
    Column("mean_saved", "mean", "frames saved, averaged over time"),
    Column("mean_possible", "possible", "frames that perfect sharing would save, over time"),
    Column("net_saved", "net", "mean saved, less the frames of helper domains", brief=True),
    Column("gained", "gained", "net saved beyond what `none` has (by forks)", brief=True),
    Column("copies", "copies", "pages that were copied because of a write", brief=True),
    Column("traps", "traps", "exceptions passed on to guests", brief=True),
    Column("hypercalls", "hypercalls", "entries of multicalls too", brief=True),
    Column("flushes", "flushes", "of the whole TLB and of single pages"),
    Column("messages", "messages", "events sent from one domain to another", brief=True),
    Column("switches", "switches", "of the CPU from one domain to another", brief=True),
    Column("looks_per_merge", "looks/merge", "pages looked at for each that merged", brief=True),
    Column("life", "life", "median life of a share that ended, in guest instructions"),
    Column("cycles", "cycles", "estimated cycles in all"),
    Column("over_none", "over none", "estimated cycles beyond what `none` takes", brief=True),
    Column("over_none_l4", "with L4 IPC", "the same with an L4 kernel's switch of domains"),
)
"""What the tables show, in order. Frames and pages are of 4 KiB."""

KEYS: Final = ("system", "workload", "domains", "seed", "pages")
SETTINGS: Final = ("sleep", "scan_pages", "groups", "zero_only", "opaque")


@dataclass(frozen=True, slots=True)
class Row:
    """One cell, or the mean of several that differ in their seed only."""

    place: Mapping[str, Any]
    """Which cell: ``KEYS`` and ``SETTINGS``."""
    outcome: str
    reason: str
    values: Mapping[str, Number]
    cells: int = 1
    extra: Mapping[str, Number] = field(default_factory=dict)
    """Numbers that only CSV and JSON have."""


def row_of(result: Result) -> Row:
    """The row of one cell's result."""
    cell = result["cell"]
    place = {key: cell[key] for key in ("system", "workload", "domains", "seed")}
    usual = WORKLOADS[cell["workload"]].pages
    place["pages"] = usual if cell["pages"] is None else cell["pages"]
    place |= {key: cell[key] for key in SETTINGS}
    if "counts" not in result:
        return Row(place, result["outcome"], result["reason"], {})
    counts = result["counts"]
    samples = result["samples"]
    saved, possible = _mean(samples, "saved"), _mean(samples, "possible")
    overhead = _mean(samples, "overhead")
    looks = max(counts["share_calls"], counts.get("guest_examined", 0))
    values: dict[str, Number] = {
        "at_rest": _at_rest(result),
        "achieved": _ratio(saved, possible),
        "peak_saved": max((sample["saved"] for sample in samples), default=0),
        "mean_saved": saved,
        "mean_possible": possible,
        "net_saved": saved - overhead,
        "copies": counts.get("guest_copies", 0) + counts.get("guest_helper_copies", 0),
        "traps": counts["traps"],
        "hypercalls": counts["hypercalls"],
        "flushes": counts["flushes"] + counts["page_flushes"],
        "messages": counts["messages"],
        "switches": counts["switches"],
        "looks_per_merge": _ratio(looks, counts["merged"]),
        "life": result["lives"].get("median"),
        "cycles": cycles(counts),
        "cycles_l4": cycles(counts, L4_SWITCH),
    }
    extra: dict[str, Number] = {
        "mean_pages": _mean(samples, "pages"),
        "mean_frames": _mean(samples, "frames"),
        "mean_saved_without_zero": _mean(samples, "saved_without_zero"),
        "mean_possible_without_zero": _mean(samples, "possible_without_zero"),
        "mean_possible_inside": _mean(samples, "inside"),
        "overhead": overhead,
        **counts,
        **{f"life_{key}": number for key, number in result["lives"].items()},
    }
    rounded = {key: _round(value) for key, value in values.items()}
    return Row(
        place,
        result["outcome"],
        result["reason"],
        rounded,
        extra={key: _round(value) for key, value in extra.items()},
    )


def _mean(samples: Sequence[Mapping[str, int]], key: str) -> float:
    """Average over time; each sample holds until the next."""
    if len(samples) < 2:
        return float(samples[0][key]) if samples else 0.0
    total = samples[-1]["time"] - samples[0]["time"]
    if total <= 0:
        return float(samples[-1][key])
    area = sum(
        this[key] * (following["time"] - this["time"]) for this, following in pairwise(samples)
    )
    return area / total


def _at_rest(result: Result) -> float | None:
    name = WORKLOADS[result["cell"]["workload"]].stops_changing
    for phase in result["phases"]:
        if phase["name"] == name:
            return _ratio(phase["saved"], phase["possible"])
    return None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _round(value: Number) -> Number:
    return round(value, _DIGITS) if isinstance(value, float) else value


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Rows of all cells, with what each costs beyond ``none`` in the same place."""
    rows = [row_of(result) for result in results]
    bases = {_where(row): row for row in rows if row.place["system"] == NONE and row.values}
    return [_over_none(row, bases.get(_where(row))) for row in rows]


def _where(row: Row) -> tuple[Any, ...]:
    """What ``none`` has in common with the system that is held against it."""
    return tuple(row.place[key] for key in ("workload", "domains", "seed", "pages"))


def _over_none(row: Row, base: Row | None) -> Row:
    if not row.values:
        return row
    values = dict(row.values)
    for key, of in (
        ("over_none", "cycles"),
        ("over_none_l4", "cycles_l4"),
        ("gained", "net_saved"),
    ):
        mine, theirs = values[of], None if base is None else base.values[of]
        values[key] = None if mine is None or theirs is None else _round(mine - theirs)
    return Row(row.place, row.outcome, row.reason, values, row.cells, row.extra)


def means(rows: Sequence[Row]) -> list[Row]:
    """One row for cells that differ in their seed only; a mean leaves out what is missing."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(value for name, value in row.place.items() if name != "seed")
        groups.setdefault(key, []).append(row)
    return [_joined(group) for group in groups.values()]


def _joined(group: list[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    bad = next((row for row in group if row.outcome != "ok"), None)
    good = [row for row in group if row.values]
    keys = {key: None for row in good for key in row.values}
    values: dict[str, Number] = {}
    for key in keys:
        numbers = [n for row in good if (n := row.values.get(key)) is not None]
        values[key] = round(sum(numbers) / len(numbers), _DIGITS) if numbers else None
    return Row(
        {**group[0].place, "seed": None},
        "ok" if bad is None else bad.outcome,
        "" if bad is None else bad.reason,
        values,
        len(group),
    )


@dataclass(frozen=True, slots=True)
class Target:
    """The 95 % of a workload that comes to rest, and what ``share`` reaches at least."""

    workload: str
    reached: float
    wanted: float = 0.95

    @property
    def met(self) -> bool:
        """True if it is reached in every cell."""
        return self.reached >= self.wanted


def targets(rows: Iterable[Row]) -> list[Target]:
    """What ``share`` reaches on the workloads whose pages stop changing; the worst cell of each.

    Cells whose machine forbids sharing (groups, zero pages only) are left out.
    """
    worst: dict[str, float] = {}
    for row in rows:
        reached = row.values.get("at_rest")
        free = row.place["groups"] == 1 and not row.place["zero_only"]
        if row.place["system"] != "share" or not free or reached is None:
            continue
        name = row.place["workload"]
        worst[name] = min(worst.get(name, 1.0), reached)
    return [Target(name, reached) for name, reached in worst.items()]


def winners(rows: Sequence[Row]) -> list[tuple[str, int, str, str]]:
    """(workload, domains, most saved, cheapest for a frame saved) of the real systems.

    What counts is what is saved beyond ``none``, on average. Several names where they are equal
    within 1 %. The cheapest: fewest estimated cycles beyond ``none`` for each such frame, among
    systems that save at least half of the most.
    """
    places: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.values and row.place["system"] not in (NONE, "oracle"):
            places.setdefault((row.place["workload"], row.place["domains"]), []).append(row)
    found = []
    for (workload, domains), group in places.items():
        most = max(_gained(row) for row in group)
        if most < 1:
            found.append((workload, domains, "nothing to save", "-"))
            continue
        best = [row.place["system"] for row in group if _gained(row) >= most * 0.99]
        able = [
            (float(cost) / _gained(row), row.place["system"])
            for row in group
            if (cost := row.values.get("over_none")) is not None and _gained(row) >= most / 2
        ]
        cheapest = min(able)[1] if able else "-"
        found.append((workload, domains, ", ".join(dict.fromkeys(best)), cheapest))
    return found


def _gained(row: Row) -> float:
    """Frames saved beyond ``none``; all that are saved, where there is no ``none``."""
    gained = row.values.get("gained")
    return float((row.values.get("net_saved") if gained is None else gained) or 0)


def sharable(rows: Sequence[Row]) -> list[list[str]]:
    """What there is to share, by workload and domains: a header and lines, averages over time.

    From the oracle, or from ``none`` where it was left out; the first seed.
    """
    header = ["workload", "domains", "pages", "could be saved", "without zeros", "within domains"]
    lines: dict[tuple[str, int], list[str]] = {}
    for name in ("oracle", NONE):
        for row in rows:
            key = (row.place["workload"], row.place["domains"])
            if row.place["system"] != name or not row.extra or key in lines:
                continue
            keys = ("mean_possible_without_zero", "mean_possible_inside")
            numbers = [row.extra["mean_pages"], row.values["mean_possible"]]
            numbers += [row.extra[key] for key in keys]
            lines[key] = [key[0], str(key[1]), *(f"{float(n or 0):,.0f}" for n in numbers)]
    return [header, *lines.values()]
