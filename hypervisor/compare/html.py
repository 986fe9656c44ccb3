"""The report: one HTML page that needs nothing else. The same results give the same bytes."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from hypervisor.compare import leak
from hypervisor.compare.cost import EVENTS, L4_SWITCH, XEN_SWITCH
from hypervisor.compare.summary import COLUMNS, Result, Row, Target, winners
from hypervisor.compare.systems import SYSTEMS
from hypervisor.compare.tables import body, grouped, target_lines, winners_lines
from hypervisor.compare.workloads import WORKLOADS

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:1px solid #ddd;
padding-top:1rem}h3{font-size:1rem;margin:1.4rem 0 .3rem}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid #eee}
th:first-child,td:first-child,table.words td,table.words th{text-align:left;white-space:normal}
th{font-weight:600;border-bottom:1px solid #999;vertical-align:bottom;white-space:normal}
.scroll{overflow-x:auto}.bad{color:#b00020}figure{margin:1rem 0}svg{max-width:100%;height:auto}
.note{color:#555;font-size:13px}
"""
_HOW: Final = (
    "Every cell is one emulated machine with real page tables: the clients run the same kernel, "
    "and differ only in what it does about equal pages. Counts are exact and repeat bit for bit. "
    "A page is an entry of a page table that maps memory of a client; saved = pages - frames "
    "behind them; possible = pages - distinct contents, by an oracle that looks at all frames. "
    "Page tables, the hypervisor's pages and the boot module (which stands for the disk) are not "
    "counted. Forks share within a kernel without any help, also under none."
)
_LIMITS: Final = (
    "Time is virtual: an instruction is a nanosecond, and a phase takes 100 ms. The guests' "
    "working sets, and the times between passes in the background, are scaled down together.",
    "share and background know when a page is filled because the program or the file system "
    "says so. A kernel knows it of blocks that it reads; of a program's own memory it must be "
    "told.",
    "Cycles are estimates: counts times a table of published numbers and assumptions (below). "
    "They order systems; they are no measurement.",
    "There is one CPU: no shoot-downs of other CPUs' TLBs, no contention, no latency of "
    "messages beyond the switch of domains.",
    "The workloads are small kernels' own, not traces of real ones. The files are Python's "
    "standard library, so that numbers differ a little between installations.",
)


def _table(lines: Sequence[Sequence[str]], words: bool = False) -> str:
    header, *rest = lines
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>\n" for line in rest
    )
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>\n{rows}</table></div>\n'


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>\n" for item in items) + "</ul>\n"


def page(
    results: Sequence[Result],
    rows: Sequence[Row],
    targets: Sequence[Target],
    there: Sequence[Sequence[str]],
    findings: Sequence[leak.Finding],
    figures: Mapping[str, str],
    missing: str = "",
) -> str:
    """The whole page. ``rows``: means over seeds; ``there``: what there is to share; ``missing``:
    why there are no figures.
    """
    parts = [_summary(results)]
    if targets:
        parts.append("<h2>Where pages stop changing</h2>\n" + _table(target_lines(targets)))
    if winners(rows):
        parts.append("<h2>Who wins</h2>\n" + _table(winners_lines(rows), words=True))
        parts.append(_differences(rows))
    if len(there) > 1:
        parts.append("<h2>What there is to share</h2>\n" + _table(there))
    if missing:
        parts.append(f'<p class="bad">No figures: {escape(missing)}</p>\n')
    if figures:
        parts.append("<h2>Figures</h2>\n")
        parts += [f"<figure>{_inline(svg, name)}</figure>\n" for name, svg in figures.items()]
    if findings:
        parts.append(_leak(findings))
    if rows:
        parts.append("<h2>All tables</h2>\n")
        parts += [
            f"<h3>{escape(title)}</h3>\n{_table(body(group, COLUMNS))}"
            for title, group in grouped(rows)
        ]
        meanings = [["column", "meaning"], *([c.title, c.meaning] for c in COLUMNS)]
        parts.append("<h3>What the columns are</h3>\n" + _table(meanings, words=True))
    parts.append(_method(rows))
    text = "".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>cowbird compare</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Sharing equal pages: the systems of the 2005 discussion</h1>\n{text}</body></html>\n"
    )


def _summary(results: Sequence[Result]) -> str:
    bad = [result for result in results if result["outcome"] != "ok"]
    text = f"<p>{len(results)} cells; in {len(results) - len(bad)} of them every guest verified "
    text += "its contents and the audit is clean.</p>\n"
    if bad:
        lines = (f"{r['name']}: {r['outcome']}: {r['reason']}" for r in bad)
        text += f'<div class="bad">{_list(lines)}</div>\n'
    return text + f"<p>{escape(_HOW)}</p>\n"


def _differences(rows: Sequence[Row]) -> str:
    """The largest gap over time between each system and the best, in words."""
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.place["system"] != "oracle" and (value := row.values.get("achieved")) is not None:
            key = (row.place["workload"], row.place["domains"])
            best[key] = max(best.get(key, 0.0), float(value))
    lines = []
    for system in SYSTEMS:
        gaps = [
            (best[key] - float(value), key, float(value))
            for row in rows
            if row.place["system"] == system
            and (value := row.values.get("achieved")) is not None
            and (key := (row.place["workload"], row.place["domains"])) in best
        ]
        if system in ("none", "oracle") or not gaps:
            continue
        gap, (workload, domains), value = max(gaps)
        lines.append(
            f"{system}: farthest behind in {workload} with {domains} domains, where it has "
            f"{100 * value:.1f}% of what is possible over time and the best has "
            f"{100 * (value + gap):.1f}%"
            if gap >= 0.0005
            else f"{system}: nowhere behind"
        )
    return _list(lines)


def _inline(svg: str, name: str) -> str:
    """A figure inside the page: its ids get a prefix, so that they stay apart."""
    start = svg.index("<svg")
    text = svg[start:]
    before, _, rest = text.partition("<metadata>")
    text = before + rest.partition("</metadata>")[2] if rest else text
    for before in ('id="', 'href="#', "url(#"):
        text = text.replace(before, f"{before}{name}-")
    return text


def _leak(findings: Sequence[leak.Finding]) -> str:
    text = "<h2>The leak</h2>\n<p>A spy guesses which of 64 contents another domain has; 50% is a "
    text += "coin's rate. Times are virtual, so that they tell nothing here; on hardware they do."
    text += f"</p>\n{_table(leak.lines_of(findings))}"
    return text + _list(f"{f.mitigation.name}: {f.mitigation.description}" for f in findings)


def _method(rows: Sequence[Row]) -> str:
    systems = {row.place["system"] for row in rows}
    workloads = {row.place["workload"] for row in rows}
    said = [[s.name, s.description] for s in SYSTEMS.values() if s.name in systems]
    done = [[w.name, w.description] for w in WORKLOADS.values() if w.name in workloads]
    costs = [
        [event.what, f"{event.cycles:,.0f}", event.source]
        for event in (*EVENTS, XEN_SWITCH, L4_SWITCH)
    ]
    text = ""
    if rows:
        text += "<h2>Systems</h2>\n" + _table([["system", "what it does"], *said], words=True)
        text += "<h2>Workloads</h2>\n" + _table([["workload", "what it does"], *done], words=True)
    text += "<h2>Cost model</h2>\n<p>Estimates: what each event is taken to cost.</p>\n"
    text += _table([["event", "cycles", "source"], *costs], words=True)
    return text + "<h2>Limits of the method</h2>\n" + _list(_LIMITS)
