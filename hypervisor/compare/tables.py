"""Rows as tables: for a terminal, as CSV, as JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from hypervisor.compare.store import SCHEMA, encode
from hypervisor.compare.summary import (
    COLUMNS,
    KEYS,
    SETTINGS,
    Column,
    Number,
    Result,
    Row,
    Target,
    winners,
)


def cell_text(value: Number, column: Column | None = None) -> str:
    """A number as a table shows it."""
    if value is None:
        return "-"
    if column is not None and column.percent:
        return f"{100 * value:.1f}%"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:,.1f}M"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}"


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which the rows differ."""
    return [key for key in SETTINGS if len({row.place[key] for row in rows}) > 1]


def grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows): one table for each workload and number of domains."""
    places: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row.place["workload"], row.place["domains"], row.place["pages"])
        places.setdefault(key, []).append(row)
    return [
        (f"{workload}, {domains} domains of {pages} pages", group)
        for (workload, domains, pages), group in places.items()
    ]


def tables(rows: Sequence[Row]) -> Iterable[Table]:
    """Tables for a terminal."""
    more = differing(rows)
    for title, group in grouped(rows):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("system")
        for key in more:
            table.add_column(key, justify="right")
        for column in COLUMNS:
            table.add_column(column.title, justify="right", no_wrap=True)
        for row in group:
            cells = [row.place["system"]]
            cells += [str(row.place[key]) for key in more]
            if row.values:
                cells += [cell_text(row.values.get(c.key), c) for c in COLUMNS]
            if row.outcome != "ok":
                cells[0] += f" ({row.outcome})"
            table.add_row(*cells)
        yield table


def winners_table(rows: Sequence[Row]) -> Table:
    """Who saves most, and who is cheapest."""
    table = Table(title="who wins", title_justify="left", box=None, pad_edge=False)
    for name in ("workload", "domains", "saves most (net, over time)", "cheapest per frame"):
        table.add_column(name)
    for workload, domains, best, cheapest in winners(rows):
        table.add_row(workload, str(domains), best, cheapest)
    return table


def to_csv(rows: Iterable[Row]) -> str:
    """All numbers of all cells, a line each."""
    rows = list(rows)
    names = dict.fromkeys(key for row in rows for key in row.values)
    names |= dict.fromkeys(sorted({key for row in rows for key in row.extra if key not in names}))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*KEYS, *SETTINGS, "outcome", "reason", *names])
    for row in rows:
        place = [_plain(row.place[key]) for key in (*KEYS, *SETTINGS)]
        numbers = [_plain(row.values.get(key, row.extra.get(key))) for key in names]
        writer.writerow([*place, row.outcome, row.reason, *numbers])
    return out.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None else value


def to_json(results: Sequence[Result], rows: Sequence[Row], targets: Sequence[Target]) -> str:
    """Everything that was measured."""
    return encode(
        {
            "schema": SCHEMA,
            "columns": {column.key: column.meaning for column in COLUMNS},
            "rows": [
                {
                    **row.place,
                    "outcome": row.outcome,
                    "reason": row.reason,
                    "values": dict(row.values),
                }
                for row in rows
            ],
            "targets": [
                {"workload": t.workload, "reached": t.reached, "wanted": t.wanted, "met": t.met}
                for t in targets
            ],
            "cells": list(results),
        }
    )
