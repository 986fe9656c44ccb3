"""``cowbird demo``: eight kernels with real files in memory, what they save, and a second count.

Every domain runs the bundled ``share`` with a module of Python's own source files; the sets
overlap. All pages are shared, some are written to, and every byte is checked by the guests.

When all pages of a domain are shared it is paused, until all domains are there: that moment,
before anybody writes, is what the savings are measured at. They are compared with a count that the
hypervisor has no part in: the pages of the modules, put into a Python set. Frames in use are those
not free, the hypervisor's own and page tables included.
"""

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.table import Table

from emu.units import PAGE_SIZE
from hypervisor.cli import logs
from hypervisor.cli.exitcodes import help_text
from hypervisor.cli.machine_options import machine_options, outputs
from hypervisor.cli.screen import Screen, ending_text, histogram_text, make_table
from hypervisor.cli.session import Session
from hypervisor.cli.sources import find_source
from hypervisor.domain import Domain
from hypervisor.results import Moment, Outcome
from hypervisor.settings import Settings

DOMAINS: Final = 8
GUEST: Final = "share"
CMDLINE: Final = "patterns=0"
"""Only the module's pages, whose contents are known here."""
FILES: Final = 40
"""Files that all modules are made of: the largest of the standard library."""
COMMON: Final = 8
"""Files that every module has."""
OWN: Final = 12
"""Files of a module besides; the next domain's begin ``STEP`` further on, so they overlap."""
STEP: Final = 4
ROOM: Final = 2 << 20
"""Bytes of a domain's memory besides its module."""
_MAX_BYTES: Final = 128 << 10
"""Files larger than this are left out: one odd installation must not make the demo slow."""


@dataclass(frozen=True, slots=True)
class Module:
    """A boot module: files one after another, each from the start of a page, zeros between."""

    names: tuple[str, ...]
    data: bytes

    def pages(self) -> list[bytes]:
        """Its pages."""
        return [self.data[at : at + PAGE_SIZE] for at in range(0, len(self.data), PAGE_SIZE)]


def choose_modules(library: Path, domains: int) -> list[Module]:
    """Modules of overlapping sets of the source files in ``library``, the same at every call.

    Raises:
        click.ClickException: there are not enough files.
    """
    found: list[tuple[int, str, bytes]] = []
    for path in sorted(library.glob("*.py")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if 0 < len(data) <= _MAX_BYTES:
            found.append((-len(data), path.name, data))
    if len(found) < FILES:
        raise click.ClickException(f"{library}: {len(found)} Python files, the demo needs {FILES}")
    files = [(name, data) for _, name, data in sorted(found)[:FILES]]
    common, rest = files[:COMMON], files[COMMON:]
    modules = []
    for number in range(domains):
        own = [rest[(number * STEP + i) % len(rest)] for i in range(OWN)]
        chosen = common + own
        data = b"".join(data + bytes(-len(data) % PAGE_SIZE) for _, data in chosen)
        modules.append(Module(tuple(name for name, _ in chosen), data))
    return modules


def count_pages(pages: Sequence[bytes]) -> tuple[int, int]:
    """(pages, distinct contents among them): what the hypervisor's numbers are held against."""
    return len(pages), len(set(pages))


class _Meeting:
    """Pauses every domain once all its pages are shared."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pages: dict[int, int] = {}
        self.arrived: list[Domain] = []
        session.hv.listen(self._happened)

    def expect(self, domain: Domain, pages: int) -> None:
        """Say how many pages a domain will share."""
        self._pages[domain.id] = pages

    def go_on(self) -> None:
        """Let everybody run again."""
        for domain in self.arrived:
            self._session.hv.scheduler.unpause(domain)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if kind != "hypercall" or domain is None or domain.exit is not None:
            return
        wanted = self._pages.get(domain.id)
        if wanted is not None and domain.entered + domain.merged >= wanted:
            del self._pages[domain.id]
            self.arrived.append(domain)
            self._session.hv.scheduler.pause(domain)


@click.command(short_help="Eight kernels share real files and write to them.", epilog=help_text())
@machine_options
@click.pass_context
def demo(
    ctx: click.Context,
    machine_memory: int,
    seed: int,
    slice_: int,
    limit: int,
    audit: bool,
    trace: str | None,
    trace_frames: bool,
    json_: str | None,
    log: tuple[str, ...],
) -> int:
    """Show it: eight kernels share real files, write to them, and check every byte.

    Exit code 0 only if every guest verified its contents, the audit is clean, and the savings
    equal an independent count over the same contents.
    """
    logs.set_up(log)
    screen = Screen(taken="-" in (trace, json_))
    source = find_source(GUEST)
    modules = choose_modules(Path(sysconfig.get_paths()["stdlib"]), DOMAINS)
    settings = Settings(machine_memory=machine_memory, seed=seed, slice=slice_, audit=audit)
    with outputs(trace, json_, trace_frames=trace_frames) as out:
        session = Session(settings, limit, screen, out.trace, out.trace_frames)
        meeting = _Meeting(session)
        pages: list[bytes] = []
        for module in modules:
            domain = session.add(
                source,
                ROOM + len(module.data),
                module=module.data,
                module_name=" ".join(module.names),
                cmdline=CMDLINE,
                show=False,
            )
            meeting.expect(domain, len(module.pages()))
            pages += module.pages()
        out.begin()
        screen.start_progress()
        session.run()
        moment = session.recorder.moment()
        session.audit()
        meeting.go_on()
        session.run()
        outcome = session.finish()
        verdict = _judge(session, moment, pages)
        if outcome is Outcome.OK and not verdict.good:
            outcome = Outcome.FAILED
        _report(session, modules, moment, verdict)
        out.write_result(session.document(outcome, {"demo": verdict.as_json()}))
    ctx.exit(session.exit_code(outcome))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The independent count and what came of it; pages and frames."""

    pages: int
    distinct: int
    saved: int
    verified: int

    @property
    def possible(self) -> int:
        return self.pages - self.distinct

    @property
    def agree(self) -> bool:
        return self.saved == self.possible

    @property
    def good(self) -> bool:
        return self.agree and self.verified == DOMAINS

    def as_json(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "distinct": self.distinct,
            "possible": self.possible,
            "saved": self.saved,
            "agree": self.agree,
            "verified": self.verified,
        }


def _judge(session: Session, moment: Moment, pages: Sequence[bytes]) -> _Verdict:
    given, distinct = count_pages(pages)
    verified = sum(
        record.planned > 0 and not record.failed and not record.crashed
        for record in session.records()
    )
    return _Verdict(given, distinct, moment.saved, verified)


def _report(session: Session, modules: Sequence[Module], moment: Moment, verdict: _Verdict) -> None:
    screen, hv = session.screen, session.hv
    screen.table(_domain_table(session, modules))
    table = make_table("machine, before any write", [("", "left"), ("frames", "right")])
    for name, value in (
        ("machine memory", hv.frames.total),
        ("in use", moment.used),
        ("  of these shared", moment.shared),
        ("mappings of shared frames", moment.mappings),
        ("saved", moment.saved),
        ("needed without sharing", moment.used + moment.saved),
    ):
        table.add_row(name, f"{value:,}")
    screen.table(table)
    screen.say(f"frames by sharing count: {histogram_text(moment.histogram)}")
    agree = "agrees" if verdict.agree else "DISAGREES"
    screen.say(
        f"independent count over the same files: {verdict.pages:,} pages, "
        f"{verdict.distinct:,} distinct, {verdict.possible:,} can be saved: {agree}"
    )
    found = len(session.audited.violations)
    needed = moment.used + moment.saved
    screen.say(
        f"{needed:,} frames needed without sharing, {moment.used:,} in use, "
        f"{moment.saved:,} saved ({moment.saved / needed:.0%}); "
        f"{hv.sharing.cow_faults:,} faults taken; "
        f"contents verified by {verdict.verified} of {DOMAINS} guests; "
        f"audit {'clean' if not found else f'found {found} violations'}"
    )


def _domain_table(session: Session, modules: Sequence[Module]) -> Table:
    columns = [("domain", "left"), ("pages", "right"), ("entered", "right")]
    columns += [("merged", "right"), ("faults", "right"), ("shared", "right")]
    columns += [("frames", "right"), ("checks", "right"), ("exit", "left")]
    table = make_table("domains, at their end", columns)
    for record, module in zip(session.records(), modules, strict=True):
        count = record.counters
        table.add_row(
            f"d{record.id} {record.name}",
            f"{len(module.pages()):,}",
            f"{count['entered']:,}",
            f"{count['merged']:,}",
            f"{count['cow_faults']:,}",
            f"{record.shared_mappings:,}",
            f"{record.frames:,}",
            f"{record.ok_lines}/{record.planned} ok",
            ending_text(record),
        )
    return table
