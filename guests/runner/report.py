"""What comes out of a test run: JSON, JUnit XML, and the tables for a person.

JSON is ``cowbird.test/1`` (``schema/test-1.json``): a later version may add keys under that name; a
key that changes its meaning makes it ``/2``. Apart from ``seconds`` it is the same for equal runs.
JUnit XML follows the form that Jenkins, GitLab and GitHub read: one suite per group and hypervisor.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from guests.runner.collect import TestProgram
from guests.runner.manifest import ENVIRONMENTS
from guests.runner.result import COWBIRD, XEN, Result, evidence
from guests.runner.verdict import Verdict

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA: Final = "cowbird.test/1"
SCHEMA_FILE: Final = Path(__file__).resolve().parent / "schema" / "test-1.json"
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLES: Final = {
    Verdict.PASS: "green",
    Verdict.SKIP: "yellow",
    Verdict.FAIL: "red",
    Verdict.ERROR: "bold red",
    Verdict.CRASH: "red",
    Verdict.TIMEOUT: "red",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One program: what it came to on each hypervisor it was run on."""

    program: TestProgram
    results: tuple[Result, ...]

    def on(self, where: str) -> Result | None:
        """The result on one hypervisor; of several environments there, the first: ``pv64``."""
        return next((result for result in self.results if result.where == where), None)

    def within(self, environment: str) -> Result | None:
        """The result in one environment."""
        return next((r for r in self.results if r.environment == environment), None)

    @property
    def comparison(self) -> str:
        """``agree``, ``documented``, ``differ``, ``not on xen``, or "" if it ran on one only."""
        ours, theirs = self.on(COWBIRD), self.on(XEN)
        if theirs is not None and self.program.manifest.not_on_xen:
            return "not on xen"
        if ours is None or theirs is None:
            return ""
        if ours.verdict is theirs.verdict and _failed(ours) == _failed(theirs):
            return "agree"
        return "documented" if self.program.manifest.difference else "differ"

    @property
    def differences(self) -> list[str]:
        """What differs, in words."""
        ours, theirs = self.on(COWBIRD), self.on(XEN)
        if ours is None or theirs is None or self.comparison not in ("differ", "documented"):
            return []
        found = []
        if ours.verdict is not theirs.verdict:
            found.append(f"{ours.verdict.value} here, {theirs.verdict.value} on Xen")
        mine, other = _failed(ours), _failed(theirs)
        found += [f"only here not ok: {name}" for name in sorted(mine - other)]
        found += [f"only on Xen not ok: {name}" for name in sorted(other - mine)]
        return found

    @property
    def good(self) -> bool:
        """True if every verdict is as expected and the hypervisors agree, or it is explained."""
        if self.comparison == "differ":
            return False
        theirs = self.on(XEN)
        if self.comparison == "documented":
            # The written reason is about Xen's verdict; ours must still be the expected one.
            return all(result.good for result in self.results if result is not theirs)
        return all(result.good for result in self.results)


def _failed(result: Result) -> set[str]:
    """Names of the checks that did not pass."""
    bad = (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.CRASH)
    return {check.name for check in result.checks if check.verdict in bad}


def counts(results: Iterable[Result]) -> Counter[str]:
    """How many came to each verdict."""
    return Counter(result.verdict.value for result in results)


# -- JSON ---------------------------------------------------------------------------------------


def as_json(outcomes: Sequence[Outcome], exit_code: int, seconds: float) -> dict[str, Any]:
    """The whole run as JSON values."""
    results = [result for outcome in outcomes for result in outcome.results]
    comparisons = Counter(o.comparison for o in outcomes if o.comparison)
    return {
        "schema": SCHEMA,
        "exit_code": exit_code,
        "seconds": round(seconds, 3),
        "programs": [_program(outcome) for outcome in outcomes],
        "summary": {
            "programs": len(outcomes),
            "good": sum(outcome.good for outcome in outcomes),
            "verdicts": {v.value: counts(results)[v.value] for v in Verdict},
            "comparisons": dict(sorted(comparisons.items())),
        },
    }


def _program(outcome: Outcome) -> dict[str, Any]:
    program, manifest = outcome.program, outcome.program.manifest
    return {
        "id": program.id,
        "path": str(program.path),
        "group": program.group,
        "description": manifest.description,
        "expected": manifest.expected.value,
        "good": outcome.good,
        "comparison": outcome.comparison or None,
        "differences": outcome.differences,
        "difference_reason": manifest.difference or None,
        "results": [_result(result) for result in outcome.results],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "on": result.where,
        "environment": result.environment,
        "verdict": result.verdict.value,
        "good": result.good,
        "reason": result.reason,
        "instructions": result.instructions,
        "seconds": round(result.seconds, 3),
        "repeat": result.repeat,
        "artifacts": result.artifacts or None,
        "domains": [
            {
                "name": domain.name,
                "verdict": domain.verdict.value,
                "reason": domain.reason,
                "ending": domain.ending,
                "checks": [
                    {"name": c.name, "verdict": c.verdict.value, "reason": c.reason}
                    for c in domain.checks
                ],
                "console": domain.console,
                "console_dropped": domain.console_dropped,
                "report": domain.report,
            }
            for domain in result.domains
        ],
    }


def encode(document: dict[str, Any]) -> str:
    """The document as text."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))
    return loaded


# -- JUnit --------------------------------------------------------------------------------------


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """The run as JUnit XML, UTF-8."""
    suites: dict[str, list[tuple[Outcome, Result]]] = {}
    labels = dict(_columns(outcomes))
    for outcome in outcomes:
        for result in outcome.results:
            name = result.group or "programs"
            if len(labels) > 1:
                name = f"{name} on {labels[result.environment]}"
            suites.setdefault(name, []).append((outcome, result))
    root = ElementTree.Element("testsuites", name="cowbird")
    for name, members in suites.items():
        _suite(root, name, members)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _suite(root: ElementTree.Element, name: str, members: list[tuple[Outcome, Result]]) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(name))
    failures = errors = skipped = 0
    for outcome, result in members:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(name),
            name=_clean(outcome.program.name),
            time=f"{result.seconds:.3f}",
            file=_clean(result.path),
        )
        kind = _junit_kind(outcome, result)
        if kind is not None:
            failures += kind == "failure"
            errors += kind == "error"
            skipped += kind == "skipped"
            differs = result.where == XEN and outcome.differences
            message = "; ".join(outcome.differences) if differs else result.reason
            message = message or result.expectation
            node = ElementTree.SubElement(case, kind, message=_clean(message))
            if kind != "skipped":
                node.set("type", result.verdict.value)
                node.text = _clean(evidence(result))
        if result.domains:
            text = "\n".join(domain.console for domain in result.domains)
            ElementTree.SubElement(case, "system-out").text = _clean(text)
    total = sum(result.seconds for _, result in members)
    suite.set("tests", str(len(members)))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    suite.set("skipped", str(skipped))
    suite.set("time", f"{total:.3f}")


def _junit_kind(outcome: Outcome, result: Result) -> str | None:
    if result.where == XEN and outcome.comparison in ("documented", "differ"):
        return "skipped" if outcome.comparison == "documented" else "failure"
    if result.verdict is Verdict.SKIP:
        return "skipped"
    if result.good:
        return None
    return "error" if result.verdict is Verdict.ERROR else "failure"


def _clean(text: str) -> str:
    """Text that XML can hold: other characters become U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


# -- tables -------------------------------------------------------------------------------------


def _columns(outcomes: Iterable[Outcome]) -> list[tuple[str, str]]:
    """(environment, heading) of those that occur: the hypervisors' names where that is enough."""
    found = {r.environment: r.where for o in outcomes for r in o.results}
    order = [name for name in ENVIRONMENTS if name in found]
    return [(name, name if "pv32" in found else found[name]) for name in order]


def table(outcomes: Sequence[Outcome]) -> "Table":
    """One row per program."""
    from rich.table import Table
    from rich.text import Text

    both = any(outcome.comparison for outcome in outcomes)
    made = Table(header_style="bold", title_justify="left")
    made.add_column("program", overflow="fold")
    columns = _columns(outcomes)
    for _, heading in columns:
        made.add_column(heading)
    if both:
        made.add_column("agree?")
    made.add_column("seconds", justify="right")
    made.add_column("what", overflow="fold")
    for outcome in outcomes:
        cells: list[str | Text] = [outcome.program.id]
        for environment, _ in columns:
            result = outcome.within(environment)
            if result is None or (environment == XEN and outcome.comparison == "not on xen"):
                cells.append(Text("-", style="dim"))
            else:
                style = "green" if result.good else _STYLES[result.verdict]
                cells.append(Text(result.expectation, style=style))
        if both:
            cells.append(Text(outcome.comparison, style=_comparison_style(outcome.comparison)))
        cells.append(f"{sum(r.seconds for r in outcome.results):.2f}")
        cells.append(Text(what(outcome)))
        made.add_row(*cells)
    return made


def plain_table(outcomes: Sequence[Outcome]) -> list[str]:
    """The same as lines of text, for pipes and logs: nothing is folded or cut."""
    both = any(outcome.comparison for outcome in outcomes)
    columns = _columns(outcomes)
    headings = [heading for _, heading in columns]
    rows = [["program", *headings, *(["agree?"] if both else []), "seconds", "what"]]
    for outcome in outcomes:
        row = [outcome.program.id]
        for environment, _ in columns:
            result = outcome.within(environment)
            left_out = environment == XEN and outcome.comparison == "not on xen"
            row.append("-" if result is None or left_out else result.expectation)
        if both:
            row.append(outcome.comparison)
        row.append(f"{sum(r.seconds for r in outcome.results):.2f}")
        rows.append([*row, " ".join(what(outcome).split())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _comparison_style(comparison: str) -> str:
    return {"differ": "bold red", "documented": "yellow", "agree": "green"}.get(comparison, "dim")


def what(outcome: Outcome) -> str:
    """A few words about a program: what went wrong, else what it is about."""
    manifest = outcome.program.manifest
    if outcome.comparison == "differ":
        return "; ".join(outcome.differences)
    if outcome.comparison == "documented":
        return f"{'; '.join(outcome.differences)} ({manifest.difference})"
    for result in outcome.results:
        if not result.good or (result.verdict is Verdict.SKIP and outcome.comparison == ""):
            reason = result.reason or result.expectation
            return f"pv32: {reason}" if result.environment == "pv32" else reason
    if outcome.comparison == "not on xen":
        return f"not on xen: {manifest.not_on_xen}"
    return manifest.description


def summary(outcomes: Sequence[Outcome], seconds: float, ended: str = "") -> str:
    """The line at the end; ``ended`` is the word for what ended the run early, if anything."""
    if ended and not outcomes:
        return f"{ended} after {seconds:.2f} s, before any program was complete"
    parts = []
    for environment, heading in _columns(outcomes):
        counted = counts(
            result
            for outcome in outcomes
            if (result := outcome.within(environment)) is not None
            and not (environment == XEN and outcome.comparison == "not on xen")
        )
        text = ", ".join(f"{counted[v.value]} {v.value}" for v in Verdict if counted[v.value])
        parts.append(f"{heading}: {text or 'nothing run'}")
    comparisons = Counter(o.comparison for o in outcomes if o.comparison)
    if comparisons:
        parts.append(", ".join(f"{n} {name}" for name, n in sorted(comparisons.items())))
    bad = sum(not outcome.good for outcome in outcomes)
    verdict = "all as expected" if not bad else f"{bad} not as expected"
    many = f"{len(outcomes)} program{'s' if len(outcomes) != 1 else ''}"
    if ended:
        verdict = f"{bad or 'none'} not as expected"
        return f"{ended} after {seconds:.2f} s: {many} complete, {verdict} ({'; '.join(parts)})"
    head = f"{many}, {verdict}"
    return f"{head} in {seconds:.2f} s ({'; '.join(parts)})"
