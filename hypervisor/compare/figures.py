"""Figures as SVG: what is achieved, what is saved over time, and what it costs.

The same rows give the same bytes: no date, no random ids. Needs matplotlib (the extra ``compare``).
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypervisor.compare.extras import optional
from hypervisor.compare.summary import NONE, Result, Row
from hypervisor.compare.systems import SYSTEMS

_COLOURS: Final = {
    "none": "#8c8c8c",
    "reference": "#c9a227",
    "scanner": "#7b5ea7",
    "share": "#1b7f5c",
    "background": "#66b99a",
    "manager": "#c4552d",
    "pager": "#3d6fb4",
    "oracle": "#222222",
}
_OTHER: Final = "#999999"
_NS_PER_MS: Final = 1e6
_WIDEST, _NARROWER = 4.0, 0.4
_LEAST_CYCLES: Final = 1e4
"""Where a logarithmic axis begins: systems that cost less are drawn there."""


def _pyplot() -> Any:
    """Matplotlib, drawing to memory only.

    Raises:
        CompareError: it is not installed.
    """
    matplotlib = optional("matplotlib", "drawing figures", "compare")
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "cowbird",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.max_open_warning": 0,
        }
    )
    return optional("matplotlib.pyplot", "drawing figures", "compare")


def _svg(pyplot: Any, figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)
    return out.getvalue()


def _legend(axes: Any, **where: Any) -> None:
    """A legend, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **where)


def _most_domains(rows: Sequence[Row]) -> int:
    return max((row.place["domains"] for row in rows), default=0)


def _systems(rows: Sequence[Row]) -> list[str]:
    there = {row.place["system"] for row in rows}
    return [name for name in SYSTEMS if name in there]


def achieved(rows: Sequence[Row]) -> str:
    """Saved over possible, averaged over time, for each workload and system; the most domains."""
    pyplot = _pyplot()
    domains = _most_domains(rows)
    systems = [name for name in _systems(rows) if name != "oracle"]
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        value = row.values.get("achieved")
        if row.place["domains"] == domains and value is not None:
            found.setdefault((row.place["workload"], row.place["system"]), 100 * value)
    workloads = list(dict.fromkeys(row.place["workload"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 0.5 + 0.55 * len(workloads)))
    height = 0.8 / max(1, len(systems))
    for number, system in enumerate(systems):
        axes.barh(
            [at + number * height for at in range(len(workloads))],
            [found.get((workload, system), 0.0) for workload in workloads],
            height,
            label=system,
            color=_COLOURS.get(system, _OTHER),
        )
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(workloads))], workloads)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"saved / possible, % over time ({domains} domains)")
    _legend(axes, ncols=len(systems), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(pyplot, figure)


def over_time(results: Sequence[Result], workload: str) -> str:
    """Frames saved over virtual time in one workload, by system; what is possible is dotted."""
    pyplot = _pyplot()
    mine = [r for r in results if r["cell"]["workload"] == workload and "samples" in r]
    domains = max((r["cell"]["domains"] for r in mine), default=0)
    figure, axes = pyplot.subplots(figsize=(6.2, 2.8))
    phases: Mapping[str, Any] = {}
    for number, system in enumerate(SYSTEMS):
        for result in mine:
            cell = result["cell"]
            if cell["system"] != system or cell["domains"] != domains:
                continue
            phases = result
            times = [sample["time"] / _NS_PER_MS for sample in result["samples"]]
            style = {"linestyle": ":"} if system == "oracle" else {}
            axes.step(
                times,
                [sample["saved"] for sample in result["samples"]],
                where="post",
                label="possible" if system == "oracle" else system,
                color=_COLOURS.get(system, _OTHER),
                linewidth=_WIDEST - _NARROWER * number,  # what lies below is seen beside it
                **style,
            )
            break
    for phase in phases.get("phases", ()):
        axes.axvline(phase["time"] / _NS_PER_MS, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("virtual time, ms")
    axes.set_ylabel("frames saved")
    axes.set_title(f"{workload}, {domains} domains", loc="left", fontsize=9)
    _legend(axes, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(pyplot, figure)


def cost_and_savings(rows: Sequence[Row]) -> str:
    """For each system and workload: mean frames gained, and estimated cycles, over none."""
    pyplot = _pyplot()
    domains = _most_domains(rows)
    figure, axes = pyplot.subplots(figsize=(6.2, 3.6))
    for system in _systems(rows):
        if system in (NONE, "oracle"):
            continue
        points = [
            (float(cost or 0), float(row.values["gained"] or 0))
            for row in rows
            if row.place["system"] == system
            and row.place["domains"] == domains
            and (cost := row.values.get("over_none")) is not None
        ]
        axes.scatter(
            [max(x, _LEAST_CYCLES) for x, _ in points],
            [y for _, y in points],
            s=22,
            label=system,
            color=_COLOURS.get(system, _OTHER),
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"estimated cycles beyond none ({domains} domains, one point per workload)")
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_ylabel("frames gained, mean over time")
    _legend(axes, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(pyplot, figure)
