"""An experiment from its cells to its files: what is finished is kept, what is missing is run.

``Experiment.run`` may be left at any moment, by Ctrl-C too: finished cells are in the folder, and
the next run with ``resume`` goes on. ``Experiment.write`` puts everything together again from all
results, in the order of the cells, so that it does not matter when and where each was run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hypervisor.compare import figures, html, leak
from hypervisor.compare.cell import Cell, run_cell
from hypervisor.compare.errors import CompareError
from hypervisor.compare.run import LOST, Result, Work, run_local, run_on
from hypervisor.compare.store import Store
from hypervisor.compare.summary import Row, Target, means, rows_of, sharable, targets, winners
from hypervisor.compare.tables import (
    as_text,
    plain_table,
    tables,
    target_lines,
    to_csv,
    to_json,
    winners_lines,
)

CSV: Final = "cells.csv"
JSON: Final = "results.json"
TEXT: Final = "tables.txt"
REPORT: Final = "report.html"
LEAK: Final = "the leak: what a spy gets right (50% is a coin's), and savings kept"
"""Title of that table."""
OVER_TIME: Final = ("zero", "random", "identical", "similar", "short", "pagecache", "boot", "fork")
"""Workloads whose savings over time are drawn, if they are there."""


@dataclass(frozen=True, slots=True)
class How:
    """How to run. ``memory``: bytes of address space that a process may have, None for no limit."""

    jobs: int = 0
    scheduler: str | None = None
    memory: int | None = None
    work: Work = run_cell


@dataclass
class Experiment:
    """Cells, and the folder of their results. ``spying``: show the leak too, with ``seed``."""

    grid: Sequence[Cell]
    store: Store
    spying: bool = False
    seed: int = 1
    results: dict[str, Result] = field(default_factory=dict)
    findings: list[leak.Finding] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """All cells: the grid's, then those that only the leak needs."""
        return all_cells(self.grid, self.seed if self.spying else None)

    def load(self) -> int:
        """Take what is finished from the folder; how many cells that is."""
        for cell in self.cells:
            result = self.store.load(cell)
            if result is not None:
                self.results[cell.name] = result
        return len(self.results)

    def run(self, how: How, done: Callable[[Result], object]) -> None:
        """Run what is missing; ``done`` is told of each cell.

        Raises:
            CompareError: no scheduler is there.
            OSError: the folder cannot be written.
        """
        missing = [cell for cell in self.cells if cell.name not in self.results]
        if not missing:
            return
        if how.scheduler is not None:
            finished = run_on(how.scheduler, missing, work=how.work)
        else:
            finished = run_local(missing, how.jobs, work=how.work, memory=how.memory)
        try:
            for cell, result in finished:
                self.results[cell.name] = result
                if result["outcome"] != LOST:
                    self.store.keep(cell, result)
                done(result)
        finally:
            finished.close()

    def spy(self) -> None:
        """See what a guest finds out about another. Raises CompareError."""
        if self.spying:
            results = [self.results[cell.name] for cell in leak.cells(self.seed)]
            self.findings = leak.find(results, self.seed)

    # -- what comes of it --------------------------------------------------------------------

    @property
    def in_order(self) -> list[Result]:
        """The results of the grid, in its order."""
        return [self.results[cell.name] for cell in self.grid]

    @property
    def bad(self) -> list[Result]:
        """Results that are not ``ok``, those of the leak's cells too."""
        found = [self.results[cell.name] for cell in self.cells]
        return [result for result in found if result["outcome"] != "ok"]

    def rows(self) -> list[Row]:
        """A row for each cell of the grid."""
        return rows_of(self.in_order)

    def targets(self) -> list[Target]:
        """What ``share`` reaches where pages stop changing."""
        return targets(self.rows())

    def write(self) -> str:
        """Write tables, figures and the report; what is missing because of a library, or nothing.

        Raises:
            OSError: the folder cannot be written.
        """
        rows, results = self.rows(), self.in_order
        joined, reached = means(rows), targets(rows)
        found = [finding.as_json() for finding in self.findings]
        self.store.write(CSV, to_csv(rows))
        self.store.write(JSON, to_json(results, rows, reached, found))
        shown = list(tables(joined, brief=False))
        there = sharable(rows)
        if len(there) > 1:
            shown.append(plain_table("what there is to share", there))
        if reached:
            shown.append(plain_table("where pages stop changing", target_lines(reached)))
        if winners(joined):
            shown.append(plain_table("who wins", winners_lines(joined), 4))
        if self.findings:
            shown.append(plain_table(LEAK, leak.lines_of(self.findings, brief=True)))
        self.store.write(TEXT, as_text(shown))
        drawn, missing = self._figures(joined)
        for name, text in drawn.items():
            self.store.write(f"{name}.svg", text)
        page = html.page(results, joined, reached, there, self.findings, drawn, missing)
        self.store.write(REPORT, page)
        return missing

    def _figures(self, rows: Sequence[Row]) -> tuple[dict[str, str], str]:
        """Figures by name, and why there are none."""
        if not rows:
            return {}, ""
        try:
            drawn = {
                "achieved": figures.achieved(rows),
                "cost": figures.cost_and_savings(rows),
            }
            there = {result["cell"]["workload"] for result in self.in_order}
            for workload in OVER_TIME:
                if workload in there:
                    drawn[f"over-time-{workload}"] = figures.over_time(self.in_order, workload)
        except CompareError as error:
            return {}, str(error)
        return drawn, ""


def all_cells(grid: Sequence[Cell], leak_seed: int | None) -> list[Cell]:
    """The cells of a grid, and those that the leak with this seed needs; each once."""
    more = [] if leak_seed is None else leak.cells(leak_seed)
    return list({cell.name: cell for cell in (*grid, *more)}.values())
