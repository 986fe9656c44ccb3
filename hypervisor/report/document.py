"""A trace as the data of a page: columns instead of objects, whole numbers that fit a double.

The document, which ``page/model.js`` reads:

``source``     name of the trace's file
``notes``      what a reader of the page has to know (cut short, no frames), one sentence each
``frames``     number of frames of the machine (or more, where the trace does not say)
``complete``   True if the trace has the changes of frames; False if they were derived from the
               events, and so tell of shared frames only
``domains``    ``[id, name, created, ended, destroyed, how it ended]``; of the three events their
               numbers, -1 for never
``shapes``     ``[event, key...]``: a shape is what events have in common
``events``     columns ``position`` (differences), ``domain`` (-1: none), ``shape``, ``values``
``changes``    columns ``frames`` and ``entries``: ``at`` (number of the event), ``rows`` (all their
               numbers in a row). Frames as in ``hypervisor.framelog``; entries are ``[table, first,
               count, mfn, step of mfn, bits]`` with bits 0..11 and, above them, 52..63

Numbers that are addresses or hashes, and all that a double cannot hold, are strings in hexadecimal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from emu.paging import PTE_MFN_MASK
from emu.units import PAGE_SHIFT
from hypervisor.abi import DomId
from hypervisor.frames import FREE, PageType
from hypervisor.report.reading import TraceError, TraceEvent, TraceReader

MAX_EVENTS: Final = 500_000
"""Events of a page; beyond that browsers cannot scroll a list of them."""
_MAX_TEXT: Final = 1000
_EXACT: Final = 1 << 53
_ADDRESSES: Final = frozenset({"va", "rip", "key", "arguments"})
_COW: Final = int(DomId.COW)
_SHARED: Final = int(PageType.SHARED)


class Document:
    """Collects a trace; ``data`` is the document.

    Raises:
        TraceError: the trace is bad, or has more than ``MAX_EVENTS`` and ``first`` does not say
            that fewer are enough.
    """

    def __init__(self, reader: TraceReader, first: int | None = None) -> None:
        self._shapes: dict[tuple[str, ...], int] = {}
        self._domains: dict[int, list[Any]] = {}
        self._position: list[int] = []
        self._domain: list[int] = []
        self._shape: list[int] = []
        self._values: list[list[Any]] = []
        self._changes: dict[str, dict[str, list[int]]] = {
            "frames": {"at": [], "rows": []},
            "entries": {"at": [], "rows": []},
        }
        self._complete = reader.frames is not None
        self._derived = _Derived()
        self._top = 0
        self._before = 0
        self._notes: list[str] = []
        for number, event in enumerate(reader):
            if number == first:
                self._notes.append(f"Only the first {first:,} events are shown.")
                break
            if number == MAX_EVENTS:
                raise TraceError(
                    f"{reader.path}, line {number + 2:,}: more than {MAX_EVENTS:,} events, which "
                    "no page can show; '--first N' shows the first N"
                )
            self._add(number, event)
        self._end(reader)

    def _add(self, number: int, event: TraceEvent) -> None:
        self._position.append(event.position - self._before)
        self._before = event.position
        self._domain.append(-1 if event.domain is None else event.domain)
        shape = (event.kind, *event.details)
        self._shape.append(self._shapes.setdefault(shape, len(self._shapes)))
        self._values.append([_value(key, value) for key, value in event.details.items()])
        if event.domain is not None:
            self._live(number, event.domain, event)
        frames = event.frames if self._complete else list(self._derived.rows(event))
        for row in frames:
            self._change("frames", number, row)
            self._top = max(self._top, row[0] + row[1])
        for row in event.entries:
            for part in _split(row):
                self._change("entries", number, part)

    def _change(self, what: str, number: int, row: list[int]) -> None:
        columns = self._changes[what]
        columns["at"].append(number)
        columns["rows"].extend(row)

    def _live(self, number: int, id_: int, event: TraceEvent) -> None:
        domain = self._domains.get(id_)
        if domain is None:
            name = _text(event.details["name"]) if event.kind == "create" else ""
            created = number if event.kind == "create" else -1
            domain = self._domains[id_] = [id_, name, created, -1, -1, ""]
        if event.kind == "exit":
            domain[3] = number
            domain[5] = _text(f"{event.details['reason']}, code {event.details['code']}")
        elif event.kind == "destroy":
            domain[4] = number

    def _end(self, reader: TraceReader) -> None:
        if reader.cut is not None:
            self._notes.append(
                f"The trace is cut short: line {reader.cut:,} is incomplete. "
                "All before it is shown."
            )
        left = [d for d in self._domains.values() if d[4] < 0]
        if left and reader.cut is None and not self._notes:
            names = ", ".join(f"d{d[0]} {d[1]}".strip() for d in left[:4])
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            self._notes.append(f"The run was over before these domains ended: {names}{more}.")
        if not self._complete:
            self._notes.append(
                "Traced without --trace-frames: only shared frames are known, and no mappings."
            )
        frames = reader.frames if reader.frames is not None else self._top
        self.data = {
            "source": Path(reader.path).name.encode("utf-8", "replace").decode("utf-8"),
            "notes": self._notes,
            "frames": frames,
            "complete": self._complete,
            "domains": list(self._domains.values()),
            "shapes": [list(shape) for shape in self._shapes],
            "events": {
                "position": self._position,
                "domain": self._domain,
                "shape": self._shape,
                "values": self._values,
            },
            "changes": self._changes,
        }


class _Derived:
    """Rows of shared frames from events alone, for a trace that has no changes of frames."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def rows(self, event: TraceEvent) -> Iterator[list[int]]:
        details = event.details
        if event.kind == "share":
            mfn, old = details["mfn"], details["old"]
            if old != mfn:
                yield [old, 1, FREE, 0, 0, 0, 0]
            yield self._row(mfn, self._counts.get(mfn, 0) + 1)
        elif event.kind in ("map_again", "drop"):
            yield self._row(details["mfn"], details["count"])

    def _row(self, mfn: int, count: int) -> list[int]:
        self._counts[mfn] = count
        if count == 0:
            return [mfn, 1, FREE, 0, 0, 0, 0]
        return [mfn, 1, _COW, _SHARED, 0, count, count]


def _split(row: list[int]) -> Iterator[list[int]]:
    """An ``entries`` row as rows whose bits do not change from entry to entry."""
    table, first, count, entry, step = row
    mfns = step >> PAGE_SHIFT
    last = entry + (count - 1) * step
    if not step & (1 << PAGE_SHIFT) - 1 and _bits(entry) == _bits(last):
        yield [table, first, count, _mfn(entry), mfns, _bits(entry)]
        return
    for i in range(count):
        one = entry + i * step
        yield [table, first + i, 1, _mfn(one), 0, _bits(one)]


def _mfn(entry: int) -> int:
    return (entry & PTE_MFN_MASK) >> PAGE_SHIFT


def _bits(entry: int) -> int:
    return entry & 0xFFF | entry >> 52 << 12


def _value(key: str, value: Any) -> Any:
    """A detail of an event as the page shows it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return f"{value:#x}" if key in _ADDRESSES or abs(value) >= _EXACT else value
    if isinstance(value, float):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_value(key, one) for one in value[:64]]
    return _text(str(value))


def _text(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
