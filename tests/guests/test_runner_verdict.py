"""From lines to verdicts: the three styles, their mistakes, and that nothing makes it raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guests.runner.consoles import JudgedConsole
from guests.runner.verdict import (
    MAX_CHECKS,
    ConsoleParser,
    Ending,
    Judgement,
    Verdict,
    worst,
)


def judge(text: str, ending: Ending = Ending.CLEAN, detail: str = "") -> Judgement:
    parser = ConsoleParser()
    for line in text.splitlines():
        parser.feed(line)
    return parser.judge(ending, detail)


KTAP = "KTAP version 1\n1..2\nok 1 a\n"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (f"{KTAP}ok 2 b", "PASS"),
        (f"{KTAP}ok 2 - b # SKIP why", "PASS"),
        (f"{KTAP}not ok 2 b", "FAIL"),
        (f"{KTAP}not ok 2 b # TODO later", "PASS"),
        (f"{KTAP}not ok 2 b # XFAIL known", "PASS"),
        (f"{KTAP}not ok 2 b # TIMEOUT", "TIMEOUT"),
        (f"{KTAP}not ok 2 b # ERROR cannot", "ERROR"),
        (KTAP, "FAIL"),
        (f"{KTAP}ok 2 b\nok 3 c", "FAIL"),
        (f"{KTAP}ok 3 b", "FAIL"),
        (f"{KTAP}ok b", "PASS"),
        (f"{KTAP}  # Subtest: s\n    1..1\n    not ok 1 inner\nok 2 s", "FAIL"),
        (f"{KTAP}    ok 1 inner\nok 2 s", "PASS"),
        ("1..1\nok 1 a # SKIP no", "SKIP"),
        ("1..0 # SKIP nothing here", "SKIP"),
        ("TAP version 14\nok 1 a\n1..1", "PASS"),
        ("ok 1 a", "FAIL"),
        ("KTAP version 1\n1..1\nok 1 a\nBail out! no memory", "ERROR"),
        ("Test result: SUCCESS", "PASS"),
        ("Test result: FAILURE", "FAIL"),
        ("Test result: SKIP", "SKIP"),
        ("Test result: ERROR", "ERROR"),
        ("Test result: CRASH", "CRASH"),
        ("Test result: WONDERFUL", "CRASH"),
        ("Test result: SUCCESS\nTest result: SUCCESS", "PASS"),
        ("Test result: SUCCESS\nTest result: FAILURE", "ERROR"),
        ("1..1\nok 1 a\nTest result: FAILURE", "ERROR"),
        ("1..1\nok 1 a\n1..1\nnot ok 1 a", "ERROR"),
        ("PASS: a\nPASS: b", "PASS"),
        ("PASS: a\nFAIL: b\nSUMMARY: 2 tests, 1 unexpected failures", "FAIL"),
        ("PASS: a\nXFAIL: b\nSUMMARY: 2 tests, 1 expected failures", "PASS"),
        ("PASS: a\nSKIP: b\nSUMMARY: 2 tests, 1 skipped", "PASS"),
        ("SKIP: b\nSUMMARY: 1 tests, 1 skipped", "SKIP"),
        ("PASS: a\nSUMMARY: 2 tests, 1 unexpected failures", "ERROR"),
        ("XPASS: a", "FAIL"),
        ("", "CRASH"),
        ("hello\nKTAP version 1", "CRASH"),
        ("this is ok\nokay\nnot okay", "CRASH"),
    ],
)
def test_styles(text: str, verdict: str) -> None:
    assert judge(text).verdict.value == verdict


def test_endings() -> None:
    good = f"{KTAP}ok 2 b"
    assert judge(good, Ending.CRASHED, "double fault") == Judgement(Verdict.CRASH, "double fault")
    assert judge(good, Ending.LIMIT).verdict is Verdict.TIMEOUT
    assert "after its verdict" in judge(good, Ending.LIMIT).reason
    assert judge("", Ending.LIMIT).verdict is Verdict.TIMEOUT
    assert judge(good, Ending.STUCK).verdict is Verdict.PASS
    assert judge(KTAP, Ending.STUCK).verdict is Verdict.TIMEOUT
    assert judge(good, Ending.REPORTED).verdict is Verdict.CRASH
    assert judge(KTAP, Ending.REPORTED).verdict is Verdict.CRASH
    assert judge("Test result: FAILURE", Ending.REPORTED).verdict is Verdict.FAIL
    assert judge("panic: x", Ending.REPORTED).reason.endswith("it printed last: panic: x")
    assert judge(good, Ending.CUT).verdict is Verdict.PASS


def test_reasons_name_the_check() -> None:
    assert judge(f"{KTAP}not ok 2 b # failures: 3").reason == "b: failures: 3"
    assert judge("1..3\nnot ok 1 a\nnot ok 2 b\nok 3 c").reason == "a (and 1 more)"
    assert judge(KTAP).reason == "1 results of 2 planned"


def test_worst() -> None:
    every = list(Verdict)
    assert worst(every) is Verdict.ERROR
    assert worst([Verdict.PASS, Verdict.SKIP]) is Verdict.PASS
    assert worst([Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL
    assert worst([]) is Verdict.SKIP


_PIECES = st.sampled_from(
    ["KTAP version 1", "1..2", "1..", "ok 1 a", "not ok 2 b", "  ok 1", "ok", "not ok",
     "ok 1 a # SKIP", "not ok 1 # TODO x", "# ok", "Bail out!", "Test result: SUCCESS",
     "Test result: ERROR", "PASS: x", "FAIL: y", "SKIP: ", "SUMMARY: 3 tests, 1 skipped",
     "SUMMARY: x", "1..0 # SKIP", "1..99999999999", "ok 99999999999 x", "not ok 1 x # ERROR"]
)  # fmt: skip


@given(st.lists(_PIECES | st.text(max_size=60)), st.sampled_from(Ending))
def test_total(lines: list[str], ending: Ending) -> None:
    parser = ConsoleParser()
    for line in lines:
        parser.feed(line)
        assert parser.complete in (True, False)
    judgement = parser.judge(ending)
    assert judgement.verdict in Verdict
    assert parser.judge(ending) == judgement
    if ending is Ending.CRASHED:
        assert judgement.verdict is Verdict.CRASH
    if judgement.verdict is not Verdict.PASS and judgement.verdict is not Verdict.SKIP:
        assert isinstance(judgement.reason, str)


@given(st.integers(1, 30), st.data())
def test_a_plan_passes_only_when_fulfilled(plan: int, data: st.DataObject) -> None:
    shown = data.draw(st.integers(0, plan + 3))
    lines = ["KTAP version 1", f"1..{plan}", *(f"ok {i} c" for i in range(1, shown + 1))]
    assert (judge("\n".join(lines)).verdict is Verdict.PASS) == (shown == plan)


@given(st.binary(max_size=2000), st.lists(st.integers(1, 50)))
def test_lines_do_not_depend_on_how_they_arrive(data: bytes, cuts: list[int]) -> None:
    data = b"1..1\nok 1 a\n" + data
    whole, cut = JudgedConsole(), JudgedConsole()
    whole.write(data)
    at = 0
    for size in [*cuts, len(data)]:
        cut.write(data[at : at + size])
        at += size
    whole.close()
    cut.close()
    assert whole.parser.judge(Ending.CLEAN) == cut.parser.judge(Ending.CLEAN)
    assert whole.shown() == cut.shown()


def test_a_flood_is_bounded_and_its_verdict_is_seen() -> None:
    console = JudgedConsole()
    for _ in range(2000):
        console.write(b"x" * 999 + b"\n")
    console.write(b"1..1\nok 1 last\n")
    console.close()
    assert console.parser.judge(Ending.CLEAN).verdict is Verdict.PASS
    assert console.dropped > 1_000_000
    shown = console.shown()
    assert len(shown) < 400_000
    assert shown.endswith("1..1\nok 1 last\n")


def test_many_checks_are_bounded() -> None:
    parser = ConsoleParser()
    total = MAX_CHECKS + 500
    parser.feed(f"1..{total}")
    for i in range(1, total + 1):
        parser.feed(f"ok {i} c")
    assert parser.judge(Ending.CLEAN).verdict is Verdict.PASS
    assert (len(parser.checks), parser.dropped) == (MAX_CHECKS, 500)
