"""The pytest plugin: guest programs as test items, and a ``boot`` fixture.

Installed with the package (entry point ``pytest11``), it needs no configuration. A source
(``.asm``, ``.c``) with a ``cowbird:`` manifest at its head, wherever pytest collects, is an item
for each environment that it names, and so is an image with a sidecar; a failure shows the guest's
console, the crash report and the walk of the faulting address, and leaves its evidence in pytest's
cache (``.pytest_cache/d/cowbird``). Folders called ``lib`` or ``kit`` are left alone, as they are
by ``cowbird test``.

In a Python test::

    def test_two_of_them(boot):
        run = boot("hello", domains=2, memory=8 << 20)
        assert run.verdict.verdict.value == "PASS"
        assert run.console(1).startswith("KTAP")
        assert run.domain(2).exit.reason == "poweroff"
        assert run.audit() == []

See ``guests.runner.machine`` for what a run has. A test that fails after ``boot`` gets the consoles
and crash reports of its machines as sections of its report.

A project without guests pays for the import of this file and one look at the names of its files:
nothing else is imported before a guest is met.
"""

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from guests.runner.collect import TestProgram
    from guests.runner.machine import Run
    from guests.runner.result import Result

_SUFFIXES: Final = frozenset({".asm", ".c", ".s", ".elf"})
_NOT_HERE: Final = frozenset({"lib", "kit"})
_ARTIFACTS: Final = "cowbird"
"""Evidence of failures goes there in pytest's own cache, which projects ignore already."""
_RUNS: Final = pytest.StashKey["list[Run]"]()
"""The machines that a test booted."""


class GuestFailure(Exception):
    """A guest program did not come to the expected verdict."""

    def __init__(self, result: "Result") -> None:
        super().__init__(result.expectation)
        self.result = result


class GuestItem(pytest.Item):
    """One guest program."""

    def __init__(self, *, program: "TestProgram", environment: str, **extra: Any) -> None:
        super().__init__(**extra)
        self.program = program
        self.environment = environment
        self.add_marker("guest")

    def runtest(self) -> None:
        """Run it on this hypervisor."""
        from guests.runner.run_cowbird import run_program
        from guests.runner.verdict import Verdict

        result = run_program(
            self.program, artifacts=_artifacts(self.config), environment=self.environment
        )
        if result.verdict is Verdict.SKIP and self.program.manifest.expected is not Verdict.SKIP:
            pytest.skip(result.reason or "the guest skipped everything")
        if not result.good:
            raise GuestFailure(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Console, crash report and walk for a guest's failure; a traceback for anything else."""
        if isinstance(excinfo.value, GuestFailure):
            from guests.runner.result import evidence

            return evidence(excinfo.value.result)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is, for pytest's headings."""
        return self.path, None, f"guest {self.name}"


class GuestFile(pytest.File):
    """A file with one guest program."""

    def collect(self) -> Iterable[GuestItem]:
        """Its items: ``name`` as a 64-bit guest, ``name[pv32]`` as a 32-bit one."""
        from guests.runner.collect import load_program
        from guests.runner.manifest import WIDTHS

        program = load_program(self.path, self.path.parent.name)
        named = [name for name in WIDTHS if name in program.manifest.environments] or ["pv64"]
        for environment in named:
            name = program.name if environment == "pv64" else f"{program.name}[{environment}]"
            yield GuestItem.from_parent(self, name=name, program=program, environment=environment)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "guest: a guest program that cowbird runs")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> GuestFile | None:
    """Take sources with a manifest at their head, and images that have one beside them."""
    if file_path.suffix.lower() not in _SUFFIXES or file_path.parent.name in _NOT_HERE:
        return None
    if file_path.suffix.lower() != ".elf" and not _mentions_cowbird(file_path):
        return None
    from guests.runner.collect import is_program

    if not is_program(file_path):
        return None
    made: GuestFile = GuestFile.from_parent(parent, path=file_path)
    return made


def _mentions_cowbird(path: Path) -> bool:
    """A cheap look at a source before anything is imported for it."""
    try:
        with path.open("rb") as stream:
            return b"cowbird:" in stream.read(1 << 16)
    except OSError:
        return False


def _artifacts(config: pytest.Config) -> Path | None:
    """Where evidence goes; None if pytest keeps no cache, or none can be written."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return None
    try:
        return Path(cache.mkdir(_ARTIFACTS))
    except OSError:
        return None


@pytest.fixture
def boot(request: pytest.FixtureRequest) -> Generator[Callable[..., "Run"], None, None]:
    """Boot guests on machines of their own: ``boot("hello", domains=2, memory=8 << 20)``.

    Takes what ``guests.runner.machine.boot`` takes. A relative path is looked for beside the test.
    """
    from emu.errors import CowbirdError
    from guests.runner import machine

    runs: list[Run] = []
    folder = request.path.parent

    def find(source: Path | str) -> Path | str:
        if isinstance(source, str) and "\n" in source:
            return source
        beside = folder / source
        return beside if beside.is_file() else source

    def make(source: Any, **options: Any) -> "Run":
        __tracebackhide__ = True
        found = find(source) if isinstance(source, (str, Path)) else [find(one) for one in source]
        try:
            run = machine.boot(found, **options)
        except CowbirdError as error:
            # What it says is about the test's own line; how it came about helps nobody there.
            raise error.with_traceback(None) from None
        runs.append(run)
        return run

    request.node.stash[_RUNS] = runs
    yield make
    runs.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add consoles and crash reports of a failed test's machines to its report."""
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" or not report.failed:
        return
    runs: list[Run] = item.stash.get(_RUNS, [])
    for number, run in enumerate(runs, 1):
        for domain in range(1, len(run.domains) + 1):
            title = f"machine {number}, {run.domain(domain).label}"
            report.sections.append((f"console of {title}", _shown(run.console(domain))))
            if run.report(domain):
                report.sections.append((f"crash report of {title}", run.report(domain)))


def _shown(text: str) -> str:
    from guests.runner.result import shorten

    return shorten(text) or "(nothing was printed)"
