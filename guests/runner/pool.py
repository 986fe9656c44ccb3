"""Many programs at once, each in a process of its own.

Every program gets a fresh process, forked from one that has everything loaded (spawned where there
is no fork): what dies, hangs or eats memory costs only its own program. A process that ends
without a result is CRASH of the runner's process, which is ERROR, with the signal or exit code as
reason; one that is still there after ``timeout`` seconds of host time is killed, which is TIMEOUT.
That is a last resort: the bound that makes results repeatable is the limit of instructions.

Results come as they are finished; whoever wants the order of the programs has their index.

Invariant: when ``run_all`` is left, in whatever way but SIGKILL, no process of it is alive, nor
what one of them started (each leads a process group of its own). SIGTERM and SIGHUP, which CI and
``timeout`` send, leave it as Ctrl-C does.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final, Generic, TypeVar

from guests.runner.verdict import Verdict

T = TypeVar("T")
"""What a task results in; it goes through a pipe."""

_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SIGNALS: Final = (signal.SIGINT, *_ENDING)
_POLL: Final = 0.2
"""Seconds between two looks at the clock while nothing is reported."""
_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """One program: how to run it, and what to say if its process is lost."""

    work: Callable[[], T]
    """Makes the result; called in the process."""
    lost: Callable[[Verdict, str, float], T]
    """Makes the result if the process was lost, from a verdict, a reason and host seconds."""
    timeout: float | None = None
    """Seconds of host time; None for what ``run_all`` was given."""


@dataclass(slots=True)
class _Running:
    index: int
    process: BaseProcess
    pipe: Connection
    start: float
    bound: float | None
    """Seconds that it may take."""

    @property
    def late(self) -> bool:
        return self.bound is not None and time.monotonic() - self.start >= self.bound


def default_jobs() -> int:
    """As many as there are CPUs for this process."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _child(pipe: Connection, work: Callable[[], object]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setsid()
    # Forked: what the parent does at a signal is not for this process to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if sys.platform == "linux":
        # A parent that is killed outright cannot end this process: the kernel does it then.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        pipe.send(work())
    finally:
        pipe.close()


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _left_by_signals() -> Iterator[None]:
    """Signals that would end this process at once unwind it instead.

    Who has a handler already (``cowbird test``, which writes its outputs then) keeps it.
    """
    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: then they are not ours
        for number in _ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(
    tasks: Sequence[Task[T]], jobs: int, timeout: float | None = None
) -> Generator[tuple[int, T], None, None]:
    """Run all tasks, ``jobs`` at a time; yields (index, result) as they are finished.

    ``timeout``: seconds of host time for each. Closing the iterator ends what still runs.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    running: list[_Running] = []
    following = 0
    with _left_by_signals():
        try:
            while following < len(tasks) or running:
                while following < len(tasks) and len(running) < max(1, jobs):
                    # Else a signal could reach the new process before it has settled what it does
                    # about it, or this one before it knows of the new one.
                    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                    try:
                        running.append(_start(context, following, tasks[following], timeout))
                    finally:
                        signal.pthread_sigmask(signal.SIG_SETMASK, before)
                    following += 1
                for item in _ready(running):
                    running.remove(item)
                    yield item.index, _finish(item, tasks[item.index])
        finally:
            for item in running:
                _kill(item)


def _start(context: BaseContext, index: int, task: Task[T], timeout: float | None) -> _Running:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]  # typeshed: only on the concrete ones
        target=_child, args=(theirs, task.work), daemon=False
    )
    process.start()
    # Else the end of the child would not end the pipe.
    theirs.close()
    start = time.monotonic()
    bound = timeout if task.timeout is None else task.timeout
    return _Running(index, process, ours, start, bound)


def _ready(running: list[_Running]) -> list[_Running]:
    """Those that have reported, died, or are over their time; waits until there is one."""
    while True:
        # A pipe is ready when there is a result, and also when the process is gone.
        reported = set(map(id, wait([item.pipe for item in running], _POLL)))
        found = [item for item in running if id(item.pipe) in reported or item.late]
        if found:
            return found


def _finish(item: _Running, task: Task[T]) -> T:
    result: T | None = None
    if item.pipe.poll():
        # EOFError: it died before it could report; anything else: it died while it did.
        with contextlib.suppress(EOFError, OSError):
            result = item.pipe.recv()
    elif item.bound is not None:
        seconds = time.monotonic() - item.start
        _kill(item)
        reason = f"stopped after {item.bound:g} s of host time"
        return task.lost(Verdict.TIMEOUT, reason, seconds)
    if result is None:
        item.process.join(1)
        code = item.process.exitcode
        seconds = time.monotonic() - item.start
        _kill(item)
        return task.lost(Verdict.ERROR, f"its process died: {_how(code)}", seconds)
    item.process.join(1)
    _kill(item)
    return result


def _how(code: int | None) -> str:
    if code is None:
        return "without a word"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _kill(item: _Running) -> None:
    """End a process and everything that it started."""
    if item.process.is_alive():
        pid = item.process.pid
        if pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # Only if it leads its own group by now; never ours.
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)
        item.process.kill()
        item.process.join()
    item.pipe.close()
