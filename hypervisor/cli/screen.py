"""What a person sees: guests' consoles, progress, tables. Nothing here decides anything.

Consoles of several domains come line by line behind ``d3 share | ``, coloured on a terminal; with
one domain its bytes go out as they are. Colours follow ``NO_COLOR``. Where the output is no
terminal, lines are as wide as they need to be: no column is ever cut.

Progress is drawn on stderr, if that is a terminal; the only place that looks at a clock.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Final

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hypervisor.console import Console as GuestConsole
from hypervisor.results import DomainRecord

PIPE_WIDTH: Final = 200
"""Columns where the output is no terminal: more than any table here needs."""
_MOST_ROWS: Final = 40
"""Domains that are listed one by one; more are put together by name and ending."""
_STYLES: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan")
_PLAN: Final = re.compile(r"1\.\.(\d{1,6})")
_REFRESH: Final = 0.1
"""Seconds between two drawings of the progress line."""


class _Console(Console):
    """A console that leaves it to the command line to end when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled: let it go on."""
        raise


def make_console(stream: IO[str]) -> Console:
    """A rich console that never cuts a column outside of terminals."""
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(file=stream, width=width, highlight=False, soft_wrap=False, emoji=False)


class Verdicts:
    """Reads a domain's console for KTAP lines, and shows it if it is one of several.

    Called with every complete line; counts plan, ``ok`` and ``not ok`` in the domain's record.
    """

    def __init__(
        self, record: DomainRecord, show: Callable[[DomainRecord, str], None] | None
    ) -> None:
        self._record = record
        self._show = show
        self.console: GuestConsole | None = None
        """Where the lines come from."""

    def recount(self) -> None:
        """Count the console's lines anew: some were taken back."""
        record = self._record
        record.planned = record.ok_lines = record.not_ok_lines = 0
        for line in self.console.lines if self.console is not None else ():
            self._count(line)

    def __call__(self, line: str) -> None:
        """One line without its newline, control characters spelled out already."""
        self._count(line)
        if self._show is not None:
            self._show(self._record, line)

    def _count(self, line: str) -> None:
        words = line.split(None, 2)
        if words[:2] == ["not", "ok"]:
            self._record.not_ok_lines += 1
        elif words[:1] == ["ok"]:
            self._record.ok_lines += 1
        elif len(words) == 1 and (plan := _PLAN.fullmatch(line)) is not None:
            self._record.planned += int(plan[1])


class Screen:
    """Where things are printed: results on stdout (stderr if stdout is taken), the rest on stderr.

    ``taken``: stdout is for the machine-readable result alone.
    """

    def __init__(self, taken: bool = False) -> None:
        self._stream = sys.stderr if taken else sys.stdout
        self.out = make_console(self._stream)
        self.err = make_console(sys.stderr)
        self._live: Live | None = None
        self._drawn = 0.0

    @property
    def terminal(self) -> bool:
        """True if results go to a terminal."""
        return self.out.is_terminal

    def raw(self, data: bytes) -> None:
        """Bytes of a guest's console as they are; no progress is drawn from then on."""
        self.stop_progress()
        buffer = getattr(self._stream, "buffer", None)
        if buffer is None:  # a test's or a notebook's stream of text
            self._stream.write(data.decode("utf-8", "replace"))
        else:
            self._stream.flush()
            buffer.write(data)
        self._stream.flush()

    def guest_line(self, record: DomainRecord, text: str) -> None:
        """A line of one of several consoles."""
        prefix = f"d{record.id} {record.name} | "
        if self.terminal:
            styled = Text(prefix, style=_STYLES[record.id % len(_STYLES)])
            styled.append(text, style="default")
            self._above().print(styled, soft_wrap=True)
        else:
            self._stream.write(f"{prefix}{text}\n")

    def say(self, text: str) -> None:
        """A line for a person, among the results; or very many of them."""
        if self.terminal:
            self._above().print(text, markup=False, soft_wrap=True)
        else:  # as it is: laying out a megabyte would take minutes
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def tell(self, text: str) -> None:
        """A line for a person, on stderr."""
        console = self.err if self._live is None else self._live.console
        console.print(text, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table among the results."""
        self._above().print(table)

    def _above(self) -> Console:
        # While a progress line is drawn, lines for the same terminal must go above it.
        return self._live.console if self._live is not None and self.terminal else self.out

    # -- progress --------------------------------------------------------------------------

    def start_progress(self) -> None:
        """Draw a progress line from now on, if stderr is a terminal."""
        if self.err.is_terminal and self._live is None:
            self._live = Live(console=self.err, auto_refresh=False, transient=True)
            self._live.start()

    def progress(self, text: Callable[[], str]) -> None:
        """What the progress line says now; ``text`` is asked only when it is drawn."""
        live = self._live
        if live is None:
            return
        now = time.monotonic()
        if now - self._drawn >= _REFRESH:
            self._drawn = now
            line = Text(text(), style="dim", no_wrap=True, overflow="ellipsis")
            live.update(line, refresh=True)

    @property
    def shows_progress(self) -> bool:
        """True while a progress line is drawn."""
        return self._live is not None

    def stop_progress(self) -> None:
        """Take the progress line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


# -- tables ------------------------------------------------------------------------------------


def make_table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    """An empty table that fits 80 columns; ``columns`` are (heading, "left" or "right")."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading, justify in columns:
        side: JustifyMethod = "right" if justify == "right" else "left"
        table.add_column(heading, justify=side, overflow="fold")
    return table


def ending_text(record: DomainRecord) -> str:
    """How a domain ended, in a few words."""
    if record.exit is None:
        return "still there"
    if record.crashed:
        return "crashed"
    code = f" {record.exit.code}" if record.exit.code else ""
    if record.not_ok_lines:
        return f"{record.exit.reason}{code}, {record.not_ok_lines} not ok"
    missing = record.planned - record.ok_lines
    return f"{record.exit.reason}{code}" + (f", {missing} not reported" if missing > 0 else "")


def domain_table(records: Sequence[DomainRecord]) -> Table:
    """The domains at their end; many are put together by name and ending."""
    if len(records) > _MOST_ROWS:
        return _grouped_table(records)
    columns = [("domain", "left")]
    columns += [(heading, "right") for heading, _ in _COLUMNS]
    table = make_table("domains, at their end", [*columns, ("exit", "left")])
    for record in records:
        numbers = [f"{value:,}" for value in _numbers(record)]
        table.add_row(escape(f"d{record.id} {record.name}"), *numbers, ending_text(record))
    return table


_COLUMNS: Final = (
    ("frames", "frames"),
    ("mappings", "shared_mappings"),
    ("entered", "entered"),
    ("merged", "merged"),
    ("refused", "share_refused"),
    ("faults", "cow_faults"),
)
"""Headings, and what is under them: a number of the record or one of its counters. Frames are
owned ones; mappings and faults are those of shared frames."""


def _numbers(record: DomainRecord) -> list[int]:
    own = {"frames": record.frames, "shared_mappings": record.shared_mappings}
    return [own[key] if key in own else record.counters[key] for _, key in _COLUMNS]


def _grouped_table(records: Iterable[DomainRecord]) -> Table:
    columns = [("name", "left"), ("domains", "right")]
    columns += [(heading, "right") for heading, _ in _COLUMNS]
    table = make_table("domains, at their end, sums", [*columns, ("exit", "left")])
    groups: dict[tuple[str, str], list[DomainRecord]] = {}
    for record in records:
        groups.setdefault((record.name, ending_text(record)), []).append(record)
    for (name, ending), members in groups.items():
        sums = [sum(column) for column in zip(*map(_numbers, members), strict=True)]
        table.add_row(escape(name), f"{len(members):,}", *(f"{n:,}" for n in sums), ending)
    return table


def histogram_text(histogram: Mapping[int, int], most: int = 8) -> str:
    """Sharing counts in short: ``1: 20  2: 7  8: 12``; the rarest are put together at the end."""
    rows = [(count, frames) for count, frames in sorted(histogram.items()) if frames]
    shown = [f"{count}: {frames:,}" for count, frames in rows[:most]]
    if len(rows) > most:
        shown.append(f"{rows[most][0]} or more: {sum(frames for _, frames in rows[most:]):,}")
    return "  ".join(shown) or "none"
