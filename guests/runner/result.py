"""The outcome of one program on one hypervisor, as plain data that can cross a process border.

Consoles are text with control characters spelled out and bounded in size; ``seconds`` is host
time, for people, and takes part in no verdict.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from guests.runner.verdict import Check, Verdict

COWBIRD: Final = "cowbird"
XEN: Final = "xen"
MAX_SHOWN: Final = 200
"""Lines of a console that are shown of a failure: the first and the last ones."""


@dataclass(frozen=True, slots=True)
class DomainResult:
    """One domain at its end."""

    name: str
    verdict: Verdict
    reason: str = ""
    ending: str = ""
    """How it ended, in words."""
    checks: tuple[Check, ...] = ()
    console: str = ""
    console_dropped: int = 0
    """Bytes of output beyond what is kept."""
    report: str = ""
    """The crash report, if it crashed."""
    last_fault: str = ""
    """The walk of the last faulting address; only of runs that were repeated for evidence."""


@dataclass(frozen=True, slots=True)
class Result:
    """One program on one hypervisor.

    ``instructions``: guest instructions in all, 0 where they are not counted.
    """

    id: str
    path: str
    group: str
    where: str
    verdict: Verdict
    expected: Verdict
    reason: str = ""
    description: str = ""
    domains: tuple[DomainResult, ...] = ()
    instructions: int = 0
    seconds: float = 0.0
    repeat: str = ""
    """The command that does it again."""
    artifacts: str = ""
    """The folder with its evidence, empty if there is none."""
    settings: dict[str, Any] = field(default_factory=dict)
    environment: str = "pv64"
    """Of the manifest: ``pv64``, ``pv32``, ``xen``."""

    @property
    def place(self) -> str:
        """Where it ran, for a person."""
        return f"{self.where} ({self.environment})" if self.environment == "pv32" else self.where

    @property
    def good(self) -> bool:
        """True if the verdict is the expected one, or the program was skipped."""
        return self.verdict in (self.expected, Verdict.SKIP)

    @property
    def checks(self) -> list[Check]:
        """The checks of all domains."""
        return [check for domain in self.domains for check in domain.checks]

    @property
    def expectation(self) -> str:
        """``CRASH, expected PASS`` if that is not what came out; else the verdict alone."""
        if self.good or self.expected is Verdict.PASS:
            return self.verdict.value
        return f"{self.verdict.value}, expected {self.expected.value}"


def shorten(text: str, most: int = MAX_SHOWN) -> str:
    """The first and last lines of a console, ``most`` in all."""
    lines = text.splitlines()
    if len(lines) <= most:
        return text.rstrip("\n")
    head, tail = most // 4, most - most // 4
    left_out = f"[{len(lines) - most:,} lines left out]"
    return "\n".join([*lines[:head], left_out, *lines[-tail:]])


def _walked(domain: DomainResult) -> bool:
    """True if the crash report already has the walk of that address."""
    walk = domain.last_fault.partition("walk of ")[2]
    return f"walk of {walk.partition(' ')[0]} " in domain.report


def evidence(result: Result, full: bool = True) -> str:
    """What a person wants to see of a failure: verdicts, consoles, crash report, walk, command.

    Without ``full`` only the verdict, its reason, where the rest is, and the command.
    """
    lines = [f"{result.id}: {result.expectation} on {result.place}"]
    if result.reason:
        lines[0] += f": {result.reason}"
    several = len(result.domains) > 1
    for domain in result.domains if full else ():
        if several:
            because = f": {domain.reason}" if domain.reason else ""
            lines.append(f"--- domain {domain.name}: {domain.verdict.value}{because}")
        lines.append(f"--- console{f' of {domain.name}' if several else ''}")
        lines.append(shorten(domain.console) or "(nothing was printed)")
        if domain.report:
            lines += ["--- crash report", domain.report.rstrip("\n")]
        if domain.last_fault and not _walked(domain):
            lines += ["--- last page fault", domain.last_fault]
    if result.artifacts:
        lines.append(f"  evidence in {result.artifacts}")
    if result.repeat:
        lines.append(f"  repeat with: {result.repeat}")
    return "\n".join(lines)
