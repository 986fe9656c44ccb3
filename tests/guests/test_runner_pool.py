"""The pool: results from many processes, and what dies costs only its own program."""

import os
import signal
import time
from functools import partial

import pytest

from guests.runner.pool import Task, run_all
from guests.runner.result import Result
from guests.runner.verdict import Verdict


def result(
    name: str, verdict: Verdict = Verdict.PASS, reason: str = "", seconds: float = 0.0
) -> Result:
    return Result(name, name, "", "cowbird", verdict, Verdict.PASS, reason=reason, seconds=seconds)


def good(name: str) -> Result:
    return result(name)


def kill_myself(name: str) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    return result(name)


def leave(name: str) -> Result:
    os._exit(7)


def hang(name: str) -> Result:
    while True:
        signal.pause()


def raise_it(name: str) -> Result:
    os.close(2)  # the traceback is not for the test's output
    raise RuntimeError(name)


def task(work: object, name: str) -> Task[Result]:
    return Task(partial(work, name), partial(result, name))  # type: ignore[arg-type]


def test_who_dies_is_told_and_the_others_go_on() -> None:
    tasks = [
        task(good, "a"),
        task(kill_myself, "b"),
        task(leave, "c"),
        task(hang, "d"),
        task(raise_it, "e"),
        task(good, "f"),
    ]
    found = dict(run_all(tasks, jobs=3, timeout=1.0))
    assert sorted(found) == list(range(6))
    verdicts = [found[i].verdict.value for i in range(6)]
    assert verdicts == ["PASS", "ERROR", "ERROR", "TIMEOUT", "ERROR", "PASS"]
    assert found[1].reason == "its process died: SIGKILL"
    assert found[2].reason == "its process died: exit code 7"
    assert found[3].reason == "stopped after 1 s of host time"
    assert [found[i].id for i in range(6)] == list("abcdef")


def test_closing_ends_what_runs() -> None:
    running = run_all([task(good, "a"), task(hang, "b"), task(hang, "c")], jobs=2)
    assert next(running)[1].id == "a"
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 5


def tell_and_hang(pipe: int, name: str) -> Result:
    os.write(pipe, b"%d\n" % os.getpid())
    return hang(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_runs_too(number: signal.Signals) -> None:
    """What CI and ``timeout`` send: a program that hangs must not stay behind."""
    reader, writer = os.pipe()
    runner = os.fork()
    if runner == 0:
        status = 1
        try:
            list(run_all([task(partial(tell_and_hang, writer), "a")], jobs=1))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as said:
        hanging = int(said.readline())
        os.kill(runner, number)
        assert os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) == 128 + number
        assert said.read() == "", "who held the pipe is gone"
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)


def test_many() -> None:
    found = [r.id for _, r in sorted(run_all([task(good, str(i)) for i in range(30)], jobs=4))]
    assert found == [str(i) for i in range(30)]


def test_a_runner_that_is_killed_leaves_nothing_running() -> None:
    reader, writer = os.pipe()
    runner = os.fork()
    if runner == 0:
        try:
            list(run_all([task(partial(tell_and_hang, writer), "a")], jobs=1))
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert int(said.readline()) > 0
        os.kill(runner, signal.SIGKILL)
        os.waitpid(runner, 0)
        assert said.read() == "", "who held the pipe is gone"
