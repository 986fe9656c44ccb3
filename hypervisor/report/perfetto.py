"""A trace in the JSON that trace viewers open (ui.perfetto.dev, chrome://tracing, Speedscope).

One process per domain, with a slice for its life, one thread for what sharing does to it and one
for its hypercalls and traps; counters of the machine and of each domain. There is no time in a
trace: one guest instruction is shown as one microsecond.

Source: "Trace Event Format" of the Chromium project: B/E slices, ``i`` instants, ``C`` counters,
``M`` metadata.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from hypervisor.report.reading import TraceEvent, TraceReader

MACHINE: Final = 0
"""The process that stands for the machine; a domain's is its id."""
_LIFE, _SHARING, _CALLS = 1, 2, 3
_SHARES: Final = frozenset({"share", "again", "refuse", "map_again", "drop", "cow_fault"})
_THREADS: Final = {_LIFE: "life", _SHARING: "sharing", _CALLS: "hypercalls and traps"}
_EXACT: Final = 1 << 53


class _Exporter:
    """Writes one event of a viewer after the other."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._between = "\n"
        self._alive: list[int] = []
        self._known: set[int] = set()
        self._mappings: dict[int, int] = {}
        self._shared = 0
        self._total = 0

    def event(self, phase: str, name: str, pid: int, tid: int, ts: int, **more: Any) -> None:
        line = {"ph": phase, "name": name, "pid": pid, "tid": tid, "ts": ts, **more}
        self._write(self._between + json.dumps(line, separators=(",", ":")))
        self._between = ",\n"

    def process(self, pid: int, name: str) -> None:
        """Name a process and put it in its place: the machine first, domains by id."""
        self.event("M", "process_name", pid, 0, 0, args={"name": name})
        self.event("M", "process_sort_index", pid, 0, 0, args={"sort_index": pid})
        if pid != MACHINE:
            for tid, thread in _THREADS.items():
                self.event("M", "thread_name", pid, tid, 0, args={"name": thread})

    def add(self, event: TraceEvent) -> None:
        pid = MACHINE if event.domain is None else event.domain
        details, kind, at = event.details, event.kind, event.position
        if event.domain is not None and pid not in self._known:
            self._known.add(pid)
            name = details["name"] if kind == "create" else ""
            self.process(pid, f"d{pid} {name}".strip())
        if kind == "create":
            self._alive.append(pid)
            self.event("B", _text(details["name"]), pid, _LIFE, at)
            return
        if kind == "destroy":
            if pid in self._alive:
                self._alive.remove(pid)
                self.event("E", "", pid, _LIFE, at)
            return
        thread = _LIFE if kind == "exit" else _SHARING if kind in _SHARES else _CALLS
        arguments = {key: _value(value) for key, value in details.items()}
        self.event("i", _name(event), pid, thread, at, s="t", cat=kind[:64], args=arguments)
        self._count(event, pid)

    def _count(self, event: TraceEvent, pid: int) -> None:
        details = event.details
        if event.kind == "share":
            mappings, shared = 1, 1 - details["status"]
        elif event.kind == "map_again":
            mappings, shared = 1, 0
        elif event.kind == "drop":
            mappings, shared = -1, -(details["count"] == 0)
        else:
            return
        self._total += mappings
        self._shared += shared
        self._mappings[pid] = mine = self._mappings.get(pid, 0) + mappings
        at = event.position
        for name, value in (
            ("saved frames", self._total - self._shared),
            ("shared frames", self._shared),
        ):
            self.event("C", name, MACHINE, 0, at, args={"frames": value})
        self.event("C", "shared mappings", pid, 0, at, args={"entries": mine})

    def end(self, position: int) -> None:
        """Slices that are open end where the trace does."""
        for pid in self._alive:
            self.event("E", "", pid, _LIFE, position)


def export(reader: TraceReader, write: Callable[[str], object]) -> None:
    """Write a trace for a viewer, as it is read.

    Raises:
        TraceError: the trace is bad.
        OSError: it cannot be read.
    """
    exporter = _Exporter(write)
    write('{"displayTimeUnit":"ms","traceEvents":[')
    exporter.process(MACHINE, "machine")
    position = 0
    for event in reader:
        position = event.position
        exporter.add(event)
    exporter.end(position)
    note = {"source": "cowbird", "time": "1 us is one guest instruction"}
    if reader.cut is not None:
        note["cut"] = f"line {reader.cut} of the trace is incomplete"
    write(f'\n],"otherData":{json.dumps(note)}}}\n')


def _name(event: TraceEvent) -> str:
    """What a viewer writes on an event."""
    details = event.details
    if event.kind == "share":
        return "share: merged" if details["status"] else "share: entered"
    if event.kind == "drop":
        return "drop" if details["count"] else "drop: freed"
    if event.kind == "refuse":
        return f"refuse: {_text(details['reason'])}"
    if event.kind == "trap":
        return f"trap {details['vector']}"
    if event.kind == "hypercall":
        return _text(details["name"])
    if event.kind == "exit":
        return f"exit: {_text(details['reason'])}"
    return event.kind


def _value(value: Any) -> Any:
    """Numbers that a viewer's JavaScript would round go as text in hexadecimal."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _EXACT:
        return f"{value:#x}"
    if isinstance(value, list):
        return " ".join(str(_value(one)) for one in value)
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return text[:1000]
