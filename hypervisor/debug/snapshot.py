"""Snapshots: the whole machine at one moment, in memory, and back.

A snapshot is the CPU's state, the contents of all frames that are in use, the columns of the frame
table, and the hypervisor's own objects (``hypervisor.debug.graph``). A free frame is zero, so that
it need not be kept. Frames are compared by a 128-bit hash with what the snapshot before had there,
and one that did not change is kept once for all snapshots: a snapshot costs what changed, and one
hash of about 0.3 us for each frame in use.

Invariant (property-tested): run = restore + run, bit for bit, in registers, machine memory, frame
table, counters and what the hypervisor knows. After a restore the TLB is empty and no code is left
from frames that changed; that cannot be seen by a guest, since whoever takes rights or accessed and
dirty bits away flushes anyway (``hypervisor.paging``).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from xxhash import xxh3_128_digest

from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.debug.graph import Graph
from hypervisor.errors import HypervisorError
from hypervisor.frames import FREE
from hypervisor.hypervisor import Hypervisor

_ZERO: Final = bytes(PAGE_SIZE)
_COLUMNS: Final = ("owner", "type", "type_count", "refs", "flags", "linear")

Page = tuple[bytes, bytes]
"""Hash and contents."""


@dataclass(slots=True)
class Snapshot:
    """The machine at ``position``; ``inputs`` is how many of the log's had been made by then.

    ``own``: bytes that no earlier snapshot had, when it was taken.
    """

    position: int
    inputs: int
    cpu: bytes
    machine: tuple[int, bool, int, int]
    frames: list[int]
    pages: list[Page]
    columns: dict[str, list[Page]]
    long: dict[tuple[int, str], list[Page]]
    graph: bytes
    extra: dict[str, Any]
    own: int = 0


class Snapshots:
    """Takes snapshots of one machine, and goes back to them."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._graph = Graph(hv)
        self._last: dict[int, Page] = {}
        """The last page that was kept of each frame."""
        self._blocks: dict[tuple[Any, ...], list[Page]] = {}

    # -- taking ----------------------------------------------------------------------------

    def take(self, inputs: int, extra: dict[str, Any] | None = None) -> Snapshot:
        """A snapshot of now; the machine must stand still."""
        hv = self._hv
        machine = hv.machine
        if machine.coherence.pending:
            machine.coherence.settle()
        memory = machine.memory.bytes
        last = self._last
        own = 0
        frames: list[int] = np.flatnonzero(hv.frames.owner_column != FREE).tolist()
        pages: list[Page] = []
        for mfn in frames:
            at = mfn << PAGE_SHIFT
            view = memory[at : at + PAGE_SIZE]
            digest = xxh3_128_digest(view)
            page = last.get(mfn)
            if page is None or page[0] != digest:
                contents = bytes(view)
                if contents == _ZERO:
                    contents = _ZERO
                else:
                    own += PAGE_SIZE
                page = last[mfn] = (digest, contents)
            pages.append(page)
        columns = {}
        for name in _COLUMNS:
            columns[name], size = self._in_blocks((name,), memoryview(getattr(hv.frames, name)))
            own += size
        state, lists = self._graph.capture()
        long = {}
        for key, data in lists.items():
            long[key], size = self._in_blocks(key, memoryview(data))
            own += size
        own += len(state) + 16 * len(frames)
        return Snapshot(
            machine.position, inputs, machine.cpu.save(), machine.save_counts(), frames, pages,
            columns, long, state, extra or {}, own,
        )  # fmt: skip

    def _in_blocks(self, key: tuple[Any, ...], view: memoryview) -> tuple[list[Page], int]:
        """Bytes in pages, those kept again that were kept last time; and the bytes that are new."""
        data = view.cast("B")
        before = self._blocks.get(key, [])
        pages: list[Page] = []
        own = 0
        for i, at in enumerate(range(0, len(data), PAGE_SIZE)):
            part = data[at : at + PAGE_SIZE]
            digest = xxh3_128_digest(part)
            if i < len(before) and before[i][0] == digest:
                pages.append(before[i])
            else:
                pages.append((digest, bytes(part)))
                own += len(part)
        self._blocks[key] = pages
        return pages, own

    # -- going back ------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """Make the machine what it was."""
        hv = self._hv
        machine = hv.machine
        if machine.coherence.pending:
            machine.coherence.settle()
        self._restore_memory(snapshot)
        for name, pages in snapshot.columns.items():
            column = memoryview(getattr(hv.frames, name)).cast("B")
            column[:] = b"".join(contents for _, contents in pages)
        long = {
            key: b"".join(contents for _, contents in pages) for key, pages in snapshot.long.items()
        }
        self._graph.restore(snapshot.graph, long)
        machine.cpu.load(snapshot.cpu)
        machine.load_counts(snapshot.machine)
        machine.coherence.flush_now()
        if machine.position != snapshot.position:
            raise HypervisorError("a restored machine is not at its position")

    def _restore_memory(self, snapshot: Snapshot) -> None:
        hv = self._hv
        memory, data = hv.machine.memory, hv.machine.memory.bytes
        wrote = hv.machine.coherence.wrote
        last = self._last
        now = hv.frames.owner_column != FREE
        now[snapshot.frames] = False
        for mfn in np.flatnonzero(now).tolist():
            memory.zero_frame(MFN(mfn))
            last.pop(mfn, None)
            wrote(MFN(mfn))
        for mfn, page in zip(snapshot.frames, snapshot.pages, strict=True):
            if xxh3_128_digest(memory.frame(MFN(mfn))) != page[0]:
                at = mfn << PAGE_SHIFT
                data[at : at + PAGE_SIZE] = page[1]
                wrote(MFN(mfn))
            last[mfn] = page

    # -- accounts --------------------------------------------------------------------------

    @staticmethod
    def size(snapshots: list[Snapshot]) -> int:
        """Bytes that these snapshots keep together."""
        seen: set[int] = set()
        total = 0
        for snapshot in snapshots:
            total += len(snapshot.graph) + len(snapshot.cpu) + 16 * len(snapshot.frames)
            lists = [snapshot.pages, *snapshot.columns.values(), *snapshot.long.values()]
            for pages in lists:
                for page in pages:
                    if id(page) not in seen:
                        seen.add(id(page))
                        total += len(page[1]) + 120 if page[1] is not _ZERO else 120
        return total


def fingerprint(hv: Hypervisor) -> str:
    """A hash of all that a guest or a person could tell two moments apart by.

    Machine memory, the frame table, all registers of all domains, counters, consoles, time.
    """
    from hypervisor.debug.state import DomainState

    parts = [f"{hv.machine.position} {hv.scheduler.now()}".encode()]
    used = np.flatnonzero(hv.frames.owner_column != FREE).tolist()
    for mfn in used:
        parts.append(mfn.to_bytes(4, "little"))
        parts.append(xxh3_128_digest(hv.machine.memory.frame(MFN(mfn))))
    parts += [bytes(memoryview(getattr(hv.frames, name)).cast("B")) for name in _COLUMNS]
    state = DomainState(hv)
    for number, domain in hv.domains.items():
        parts.append(repr(state.registers(number)).encode())
        parts.append(
            repr((domain.state, domain.instructions, sorted(domain.counters.items()))).encode()
        )
        parts.append(repr((domain.console.lines, domain.console.partial)).encode())
    parts.append(repr(sorted(hv.counters.items())).encode())
    parts.append(repr(sorted(hv.sharing.counters.items())).encode())
    return xxh3_128_digest(b"\0".join(parts)).hex()
