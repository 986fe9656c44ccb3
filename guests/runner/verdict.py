"""From what a guest printed and how it ended to one of six results.

Three ways to print a verdict are understood, told apart line by line, so that foreign test kernels
run as they are:

- KTAP and TAP: a version line, a plan ``1..N``, ``ok`` and ``not ok`` lines with the directives
  SKIP, TODO, XFAIL, TIMEOUT, ERROR, ``Bail out!``. Of subtests (indented lines) only a failure
  counts: the line of their parent speaks for them.
- Xen's test framework: ``Test result: SUCCESS`` (or FAILURE, ERROR, SKIP, CRASH).
- kvm-unit-tests: ``PASS: name``, ``FAIL:``, ``SKIP:``, ``XFAIL:``, ``XPASS:``, and a ``SUMMARY:``.

The rules:

1. No verdict is CRASH, or TIMEOUT if the domain was still running at its limit.
2. A domain that crashed is CRASH, whatever it printed before. So is one that shut itself down as
   crashed (a kernel's panic), unless it had come to a verdict other than PASS.
3. A plan with fewer or more results than it promised, results out of order, and KTAP results
   without a plan are FAIL if the domain ended in peace: part of the program was not seen.
4. A domain that goes on after its verdict until the limit is TIMEOUT; one that only waits for
   events that nobody can send keeps its verdict.
5. Two different final verdicts (two plans, two ``Test result:`` lines, two styles) are ERROR.
6. Of several domains, and of several checks, the worst counts: ERROR, CRASH, TIMEOUT, FAIL, then
   PASS; SKIP only if nothing else was done.

How it fails: it never raises and keeps at most ``MAX_CHECKS`` checks, whatever is printed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MAX_CHECKS: Final = 2000
"""Checks that are kept one by one; more are counted."""
MAX_NAME: Final = 200
"""Characters of a check's name or reason that are kept."""
_MAX_DOCUMENTS: Final = 100


class Verdict(Enum):
    """The closed set of results."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    ERROR = "ERROR"
    """The program could not be run, or contradicts itself."""
    CRASH = "CRASH"
    """The guest crashed, or ended without a verdict."""
    TIMEOUT = "TIMEOUT"
    """It did not end within its limit."""


_RANK: Final = {
    Verdict.SKIP: 0,
    Verdict.PASS: 1,
    Verdict.FAIL: 2,
    Verdict.TIMEOUT: 3,
    Verdict.CRASH: 4,
    Verdict.ERROR: 5,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that counts; SKIP for none."""
    return max(verdicts, key=_RANK.__getitem__, default=Verdict.SKIP)


class Ending(Enum):
    """How a domain's run ended."""

    CLEAN = "ended by itself"
    REPORTED = "shut itself down as crashed"
    CRASHED = "crashed"
    LIMIT = "was still running at the limit"
    STUCK = "waits for events that nobody can send"
    CUT = "was stopped after its verdict"
    """The runner stopped watching (the real Xen, where a guest may idle for ever)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line with a result."""

    name: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the sentence that explains it (empty for a plain PASS)."""

    verdict: Verdict
    reason: str = ""


_PLAN: Final = re.compile(r"1\.\.(\d{1,9})(?:\s*#\s*(.*))?\Z", re.DOTALL)
_RESULT: Final = re.compile(r"(\s*)(not )?ok\b[ \t]*(\d{1,9})?\b[ \t]*(?:- )?(.*)\Z", re.DOTALL)
_DIRECTIVE: Final = re.compile(
    r"(?:^|\s)#\s*(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b[:\s]*(.*)\Z", re.IGNORECASE | re.DOTALL
)
_XTF: Final = re.compile(r"\s*Test result: (SUCCESS|FAILURE|ERROR|SKIP|CRASH)\b")
_KVM: Final = re.compile(r"(PASS|FAIL|SKIP|XFAIL|XPASS): (.*)\Z", re.DOTALL)
_SUMMARY: Final = re.compile(
    r"SUMMARY: (\d{1,9}) tests?(?:, (\d{1,9}) unexpected failures?)?"
    r"(?:, (\d{1,9}) expected failures?)?(?:, (\d{1,9}) skipped)?\b"
)
_XTF_VERDICT: Final = {
    "SUCCESS": Verdict.PASS,
    "FAILURE": Verdict.FAIL,
    "ERROR": Verdict.ERROR,
    "SKIP": Verdict.SKIP,
    "CRASH": Verdict.CRASH,
}
_KVM_VERDICT: Final = {
    "PASS": Verdict.PASS,
    "FAIL": Verdict.FAIL,
    "SKIP": Verdict.SKIP,
    "XFAIL": Verdict.PASS,
    "XPASS": Verdict.FAIL,
}


@dataclass(slots=True)
class _Tally:
    """Results that belong together."""

    counts: dict[Verdict, int] = field(default_factory=dict)
    first_bad: Check | None = None

    def add(self, check: Check) -> None:
        self.counts[check.verdict] = self.counts.get(check.verdict, 0) + 1
        worse = self.first_bad is None or _RANK[check.verdict] > _RANK[self.first_bad.verdict]
        if _RANK[check.verdict] > _RANK[Verdict.PASS] and worse:
            self.first_bad = check

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def judge(self) -> Judgement:
        verdict = worst(self.counts)
        if self.first_bad is not None:
            bad = sum(n for v, n in self.counts.items() if _RANK[v] > _RANK[Verdict.PASS])
            first = self.first_bad
            more = f" (and {bad - 1} more)" if bad > 1 else ""
            because = f": {first.reason}" if first.reason else ""
            return Judgement(verdict, f"{first.name or 'a check'}{because}{more}")
        return Judgement(verdict)


@dataclass(slots=True)
class _Ktap:
    """One KTAP document: from a version line or a plan on."""

    plan: int | None = None
    skipped: str | None = None
    wrong: str = ""
    """What is out of order in it, if anything."""
    tally: _Tally = field(default_factory=_Tally)
    nested: Check | None = None
    """The first failing subtest."""

    def complete(self) -> bool:
        return self.plan is not None and self.tally.total >= self.plan

    def judge(self) -> Judgement:
        tally, plan = self.tally, self.plan
        bad = tally.judge()
        if _RANK[bad.verdict] > _RANK[Verdict.PASS]:
            return bad
        if plan is None:
            return Judgement(Verdict.FAIL, f"{tally.total} results and no plan")
        if tally.total != plan:
            return Judgement(Verdict.FAIL, f"{tally.total} results of {plan} planned")
        if self.wrong:
            return Judgement(Verdict.FAIL, self.wrong)
        if self.nested is not None:
            return Judgement(Verdict.FAIL, f"subtest {self.nested.name}")
        if self.skipped is not None or plan == 0:
            return Judgement(Verdict.SKIP, self.skipped or "nothing planned")
        return bad


class ConsoleParser:
    """Takes a console line by line and knows the verdict at any time.

    ``checks`` are the results seen, top-level ones first come first kept; ``dropped`` counts
    those beyond ``MAX_CHECKS``.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.dropped = 0
        self._documents: list[_Ktap] = []
        self._fresh = False
        """A version line came, whose document has not begun."""
        self._finals: list[Judgement] = []
        """Verdicts of ``Test result:`` lines."""
        self._kvm = _Tally()
        self._summaries: list[Judgement] = []
        self._bail: str | None = None
        self._reason = ""
        self.last = ""
        """The last line that was not empty."""

    # -- lines -----------------------------------------------------------------------------

    def feed(self, line: str) -> None:
        """One line, without its end."""
        line = line.rstrip()
        if line:
            self.last = line
        if line.startswith(("KTAP version ", "TAP version ")):
            self._fresh = True
        elif line.startswith("1.."):
            self._plan(line)
        elif "ok" in line and (match := _RESULT.fullmatch(line)) is not None:
            self._result(match)
        elif line.startswith("Bail out!"):
            self._bail = line[9:].strip()[:MAX_NAME] or "no reason given"
        elif "Test result: " in line and (match := _XTF.match(line)) is not None:
            self._finals.append(Judgement(_XTF_VERDICT[match[1]], self._reason))
            del self._finals[_MAX_DOCUMENTS:]
        elif line.startswith(("PASS: ", "FAIL: ", "SKIP: ", "XFAIL: ", "XPASS: ")):
            self._kvm_line(line)
        elif line.startswith("SUMMARY: "):
            self._summary(line)
        elif line.startswith(("Fail: ", "Failure: ", "Error: ", "Skip: ")) and not self._reason:
            self._reason = line[:MAX_NAME]

    def _document(self) -> _Ktap:
        if self._fresh or not self._documents:
            self._fresh = False
            self._documents.append(_Ktap())
            # What floods is not kept; the first ones decide.
            del self._documents[_MAX_DOCUMENTS:]
        return self._documents[-1]

    def _plan(self, line: str) -> None:
        match = _PLAN.fullmatch(line)
        if match is None:
            return
        document = self._document()
        if document.plan is not None:
            self._fresh = True
            document = self._document()
        document.plan = int(match[1])
        if match[2] is not None and match[2].upper().startswith("SKIP"):
            document.skipped = match[2][4:].strip(" :")[:MAX_NAME]

    def _result(self, match: re.Match[str]) -> None:
        indent, failed, number, rest = match[1], match[2], match[3], match[4]
        verdict = Verdict.FAIL if failed else Verdict.PASS
        name, reason = rest, ""
        directive = _DIRECTIVE.search(rest)
        if directive is not None:
            name, word = rest[: directive.start()], directive[1].upper()
            reason = directive[2].strip()
            if word == "SKIP":
                verdict = Verdict.SKIP
            elif word in ("TODO", "XFAIL"):
                verdict = Verdict.PASS
            elif failed:
                verdict = Verdict(word)
        elif " # " in rest:
            name, _, reason = rest.partition(" # ")
        label = name.strip()[:MAX_NAME] or (f"check {number}" if number else "")
        check = Check(label, verdict, reason[:MAX_NAME])
        document = self._document()
        if indent:
            if _RANK[verdict] > _RANK[Verdict.PASS] and document.nested is None:
                document.nested = check
            return
        due = document.tally.total + 1
        if number is not None and int(number) != due and not document.wrong:
            document.wrong = f"result {number} where {due} is due"
        document.tally.add(check)
        self._keep(check)

    def _kvm_line(self, line: str) -> None:
        match = _KVM.fullmatch(line)
        if match is not None:
            check = Check(match[2].strip()[:MAX_NAME], _KVM_VERDICT[match[1]])
            self._kvm.add(check)
            self._keep(check)

    def _summary(self, line: str) -> None:
        match = _SUMMARY.match(line)
        if match is None:
            return
        total, bad, _, skipped = (int(group or 0) for group in match.groups())
        if bad:
            verdict = Judgement(Verdict.FAIL, f"{bad} unexpected failures")
        elif skipped == total:
            verdict = Judgement(Verdict.SKIP)
        else:
            verdict = Judgement(Verdict.PASS)
        self._summaries.append(verdict)
        del self._summaries[_MAX_DOCUMENTS:]

    def _keep(self, check: Check) -> None:
        if len(self.checks) < MAX_CHECKS:
            self.checks.append(check)
        else:
            self.dropped += 1

    # -- the verdict -----------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """True once a final verdict is there: a plan fulfilled, or a line that is one."""
        if self._finals or self._summaries or self._bail is not None:
            return True
        documents = self._documents
        return bool(documents) and all(d.complete() for d in documents) and not self._fresh

    def printed(self) -> Judgement | None:
        """The verdict by what was printed alone; None for none."""
        if self._bail is not None:
            return Judgement(Verdict.ERROR, f"bailed out: {self._bail}")
        finals = [*self._finals]
        finals += [d.judge() for d in self._documents if d.plan is not None or d.tally.total]
        if self._kvm.total or self._summaries:
            finals += self._kvm_verdicts()
        if not finals:
            return None
        kinds = list(dict.fromkeys(final.verdict for final in finals))
        if len(kinds) > 1:
            names = " and ".join(kind.value for kind in kinds)
            return Judgement(Verdict.ERROR, f"contradictory verdicts: {names}")
        return next((final for final in finals if final.reason), finals[0])

    def _kvm_verdicts(self) -> list[Judgement]:
        if not self._kvm.total:
            return self._summaries
        lines = self._kvm.judge()
        # Skipped and passed together are a pass in the summary as well.
        return [lines, *self._summaries]

    def judge(self, ending: Ending, detail: str = "") -> Judgement:
        """The verdict of a domain that ended in this way; ``detail`` says more about a crash."""
        printed = self.printed()
        what = f"it {ending.value}"
        if ending is Ending.CRASHED:
            return Judgement(Verdict.CRASH, detail or what)
        if ending is Ending.LIMIT:
            after = " after its verdict" if printed is not None and self.complete else ""
            return Judgement(Verdict.TIMEOUT, what + after)
        last = f"; it printed last: {self.last[:MAX_NAME]}" if self.last else ""
        if printed is None:
            return Judgement(Verdict.CRASH, f"no verdict: {what}{last}")
        if ending is Ending.STUCK and not self.complete:
            return Judgement(Verdict.TIMEOUT, what + last)
        if ending is Ending.REPORTED and not self.complete:
            return Judgement(Verdict.CRASH, what + last)
        if ending is Ending.REPORTED and printed.verdict is Verdict.PASS:
            return Judgement(Verdict.CRASH, f"it passed, but {what}")
        return printed
