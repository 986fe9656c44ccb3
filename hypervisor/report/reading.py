"""Reading a trace back, line by line, every value checked.

A trace may come from anywhere: it may be cut short, of another version, not a trace at all, or made
to hurt. Each line is checked when it is read, so that what comes out of here can be trusted: known
events have their keys, frames lie in the machine, positions never go back.

How it fails: ``TraceError``, one line that names file and line. Only the last line may be
incomplete: an interrupted run leaves such a trace, ``TraceReader.cut`` says where, and all before
it counts. What a later version adds (events, keys) is passed on or passed over.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

from emu.errors import CowbirdError
from emu.memory import MAX_BYTES
from emu.units import ENTRIES, PAGE_SHIFT
from hypervisor.frames import FREE
from hypervisor.trace import TRACE_VERSION

MAX_LINE: Final = 64 << 20
"""Bytes of a line; the largest real ones, of a new domain with scattered frames, have a tenth."""
MAX_FRAMES: Final = MAX_BYTES >> PAGE_SHIFT
MAX_CHANGES: Final = 10_000_000
"""Changes of single frames and entries in a whole trace, run lengths counted out."""
_MAX_POSITION: Final = (1 << 53) - 1
"""Beyond this a page's numbers are not exact: ten years of guest instructions."""
_MAX_TEXT: Final = 64
_M64: Final = (1 << 64) - 1
_NEEDS: Final[dict[str, tuple[tuple[str, type | None], ...]]] = {
    "create": (("name", str),),
    "exit": (("reason", str), ("code", int)),
    "destroy": (),
    "hypercall": (("name", str), ("result", None), ("arguments", list)),
    "share": (("status", int), ("mfn", int), ("old", int), ("key", int)),
    "again": (("mfn", int),),
    "refuse": (("reason", str), ("errno", int)),
    "map_again": (("mfn", int), ("count", int)),
    "drop": (("mfn", int), ("count", int), ("why", str)),
    "cow_fault": (("va", int), ("mfn", int), ("avl", int)),
    "trap": (("vector", int), ("error", None), ("rip", int)),
}
"""What known events must have. None: a number or null."""
_COMMON: Final = frozenset({"position", "seq", "domain", "event", "frames", "entries"})


class TraceError(CowbirdError):
    """A file is not a trace that can be read; names the file and the line."""


@dataclass(slots=True)
class TraceEvent:
    """One event. ``frames`` and ``entries`` are rows as ``hypervisor.framelog`` describes them."""

    position: int
    domain: int | None
    kind: str
    details: dict[str, Any]
    frames: list[list[int]] = field(default_factory=list)
    entries: list[list[int]] = field(default_factory=list)


class TraceReader:
    """An open trace; iterating gives its events, once.

    ``frames`` is the number of the machine's frames, None if the trace has no changes of frames.
    ``cut`` is, afterwards, the number of the incomplete last line, None if there is none.

    Raises:
        TraceError: it is no trace, or of another version.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.cut: int | None = None
        self.frames: int | None = None
        self._line = 1
        self._position = 0
        self._changes = 0
        self._known: set[int] = set()
        try:
            self._stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()
        except ValueError as error:  # a NUL in the name
            raise TraceError(f"{path!r}: {error}") from error
        try:
            self._read_header()
        except (TraceError, OSError):
            self._stream.close()
            raise

    def close(self) -> None:
        """No more is read."""
        self._stream.close()

    def __enter__(self) -> "TraceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lines -----------------------------------------------------------------------------

    def bad(self, why: str) -> TraceError:
        """The error for the line in hand."""
        return TraceError(f"{self.path}, line {self._line:,}: {why}")

    def _next(self) -> bytes:
        line = self._stream.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise self.bad(f"longer than {MAX_LINE >> 20} MiB: not a line of a trace")
        return line

    def _read_header(self) -> None:
        if os.fstat(self._stream.fileno()).st_size == 0 and self._stream.seekable():
            raise TraceError(f"{self.path}: empty, not a trace")
        line = self._next()
        try:
            header = _parse(line)
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.get("trace") != "cowbird":
            raise self.bad("not a trace of cowbird ('cowbird boot ... --trace FILE' writes one)")
        version = header.get("version")
        if version != TRACE_VERSION or isinstance(version, bool):
            shown = version if isinstance(version, int) else "unknown"
            raise self.bad(f"a trace of version {shown}; this cowbird reads {TRACE_VERSION}")
        if "frames" in header:
            self.frames = self._number(header, "frames", MAX_FRAMES)

    def __iter__(self) -> Iterator[TraceEvent]:
        """The events in order. Raises TraceError, OSError."""
        seq = 0
        while True:
            self._line += 1
            line = self._next()
            if not line:
                return
            try:
                parsed = _parse(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    self.cut = self._line
                    return
                raise self.bad(f"not JSON: {error}") from error
            if not isinstance(parsed, dict):
                raise self.bad("not an event: no JSON object")
            yield self._event(parsed, seq)
            seq += 1

    # -- one event -------------------------------------------------------------------------

    def _event(self, line: dict[str, Any], seq: int) -> TraceEvent:
        position = self._number(line, "position", _MAX_POSITION)
        if position < self._position:
            raise self.bad(f"position {position:,} comes after {self._position:,}")
        self._position = position
        if self._number(line, "seq", _MAX_POSITION) != seq:
            raise self.bad(f"seq is {line['seq']}, not {seq}: events are missing")
        kind = line.get("event")
        if not isinstance(kind, str) or not 0 < len(kind) <= _MAX_TEXT:
            raise self.bad("'event' is not a name")
        domain = None if line.get("domain", 0) is None else self._number(line, "domain", FREE)
        details = {key: value for key, value in line.items() if key not in _COMMON}
        if kind in _NEEDS:
            self._check(kind, domain, details)
        event = TraceEvent(position, domain, kind, details)
        if self.frames is not None:
            event.frames = self._rows(line, "frames", 7, self._frame_row)
            event.entries = self._rows(line, "entries", 5, self._entry_row)
        return event

    def _check(self, kind: str, domain: int | None, details: dict[str, Any]) -> None:
        for key, wanted in _NEEDS[kind]:
            value = details.get(key, self)
            number = isinstance(value, int) and not isinstance(value, bool)
            if wanted is None:
                fits = number or value is None
            else:
                fits = number if wanted is int else isinstance(value, wanted)
            if not fits:
                raise self.bad(f"{key!r} of the {kind} is missing or wrong")
        if domain is None:
            raise self.bad(f"a {kind} of no domain")
        if kind == "create":
            if domain in self._known:
                raise self.bad(f"domain {domain} is created twice")
            self._known.add(domain)
        if details.get("status", 0) not in (0, 1):
            raise self.bad("'status' of the share is neither 0 nor 1")
        for key in ("mfn", "old"):
            if key in details:
                self._number(details, key, (self.frames or MAX_FRAMES) - 1)
        for key in ("table", "index"):
            if key in details:
                self._number(details, key, MAX_FRAMES if key == "table" else ENTRIES - 1)
        if "count" in details:
            self._number(details, "count", (1 << 32) - 1)

    def _number(self, line: dict[str, Any], key: str, most: int) -> int:
        value = line.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.bad(f"{key!r} is missing or not a whole number")
        if not 0 <= value <= most:
            raise self.bad(f"{key!r} is {_shown(value)}, not within 0 and {most}")
        return value

    # -- frames and entries ----------------------------------------------------------------

    def _rows(self, line: dict[str, Any], key: str, width: int, check: Any) -> list[list[int]]:
        rows = line.get(key, [])
        if not isinstance(rows, list):
            raise self.bad(f"{key!r} is no list")
        for row in rows:
            if (
                not isinstance(row, list)
                or len(row) < width
                or not all(type(value) is int for value in row)
                or not check(row)
            ):
                raise self.bad(f"a row of {key!r} is wrong")
            self._changes += row[1] if key == "frames" else row[2]
        if self._changes > MAX_CHANGES:
            raise self.bad(f"more than {MAX_CHANGES:,} changes of frames and entries up to here")
        return [row[:width] for row in rows]

    def _frame_row(self, row: list[int]) -> bool:
        first, count, owner, kind, flags, types, refs = row[:7]
        return (
            first >= 0
            and count >= 1
            and first + count <= (self.frames or 0)
            and 0 <= owner <= FREE
            and 0 <= kind <= 255
            and 0 <= flags <= 255
            and 0 <= types < 1 << 32
            and 0 <= refs < 1 << 32
        )

    def _entry_row(self, row: list[int]) -> bool:
        table, first, count, entry, step = row[:5]
        last = entry + (count - 1) * step
        return (
            0 <= table < (self.frames or 0)
            and first >= 0
            and count >= 1
            and first + count <= ENTRIES
            and 0 <= entry <= _M64
            and 0 <= last <= _M64
        )


def _shown(value: int) -> str:
    """A number for an error line; the largest that Python converts have thousands of digits."""
    return str(value) if abs(value) <= _M64 else "enormous"


def _parse(line: bytes) -> Any:
    """The JSON of a line. Raises ValueError: it is none, or nothing that a trace has."""
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
