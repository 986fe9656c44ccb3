"""Rows as tables: for a terminal, as CSV, as JSON."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
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


def _table(title: str, columns: Iterable[str], left: int = 1) -> Table:
    """A plain table; the first ``left`` columns are words."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    return table


def body(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """A header, and a line for each row."""
    more = differing(rows)
    lines = [["system", *more, *(column.title for column in columns)]]
    for row in rows:
        name = row.place["system"] + (f" ({row.outcome})" if row.outcome != "ok" else "")
        line = [name, *(str(row.place[key]) for key in more)]
        lines.append(line + [cell_text(row.values.get(c.key), c) for c in columns])
    return lines


def tables(rows: Sequence[Row], *, brief: bool) -> Iterable[Table]:
    """Tables for a terminal, or with all columns for a file."""
    columns = [column for column in COLUMNS if column.brief or not brief]
    for title, group in grouped(rows):
        header, *lines = body(group, columns)
        yield _filled(_table(title, header), lines)


def _filled(table: Table, lines: Iterable[Sequence[str]]) -> Table:
    for line in lines:
        table.add_row(*line)
    return table


def plain_table(title: str, lines: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A table whose header is the first line."""
    header, *rest = lines
    return _filled(_table(title, header, left), rest)


def winners_lines(rows: Sequence[Row]) -> list[list[str]]:
    """Who saves most, and who is cheapest: a header and lines."""
    lines = [["workload", "domains", "saves most (net, over time)", "cheapest for a frame saved"]]
    return lines + [[w, str(d), best, cheap] for w, d, best, cheap in winners(rows)]


def target_lines(targets: Sequence[Target]) -> list[list[str]]:
    """What ``share`` reaches where pages stop changing: a header and lines."""
    lines = [["workload", "share reaches", "wanted", ""]]
    for target in targets:
        reached, wanted = f"{100 * target.reached:.1f}%", f"{100 * target.wanted:.0f}%"
        lines.append([target.workload, reached, wanted, "" if target.met else "MISSED"])
    return lines


def as_text(shown: Iterable[Table]) -> str:
    """Tables as text without colours, as wide as they are."""
    out = io.StringIO()
    console = Console(file=out, width=400, color_system=None, highlight=False, emoji=False)
    for table in shown:
        console.print(table)
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


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


def to_json(
    results: Sequence[Result],
    rows: Sequence[Row],
    targets: Sequence[Target],
    findings: Sequence[Mapping[str, Any]],
) -> str:
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
            "leak": list(findings),
            "cells": list(results),
        }
    )
