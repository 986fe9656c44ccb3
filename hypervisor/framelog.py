"""What changed in the frame table and in the page tables, as the lines of a trace say it.

``FrameLog.take`` compares both with what they were at the last call and gives the differences,
run-length coded, under two keys; a key with nothing under it is left out:

``frames``   rows ``[first, count, owner, type, flags, type_count, refs]``: ``count`` frames from
             MFN ``first`` on have these values now (``hypervisor.frames``; ``type`` is 0 where the
             type count is)
``entries``  rows ``[table, first, count, entry, step]``: ``count`` entries of the validated table
             in frame ``table`` from index ``first`` on are now ``entry``, ``entry + step``...

An entry that is not present is 0, and accessed and dirty bits are left out: the CPU sets them, and
no reference depends on them. The entries of a table are forgotten, by who reads this as by who
writes it, when a row says that its frame is not ``VALIDATED`` any more; a frame before its first
row is free.

The frame table is compared as a whole (about 20 us for 256 MiB); of the page tables only those that
somebody announced as written (``emu.coherence``), or that became tables.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emu.paging import PTE_A, PTE_D, PTE_P
from emu.units import ENTRIES
from hypervisor.frames import FREE, VALIDATED, PageType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hypervisor.hypervisor import Hypervisor

_KEPT: Final = np.uint64(~(PTE_A | PTE_D) & (1 << 64) - 1)
_P: Final = np.uint64(PTE_P)
_TABLES: Final = frozenset({PageType.L1, PageType.L2, PageType.L3, PageType.L4})


class FrameLog:
    """Remembers the frame table and all page tables of a machine, and tells what changed."""

    def __init__(self, hv: "Hypervisor") -> None:
        frames = hv.frames
        self._frames = frames
        self._array = hv.machine.memory.array
        self._coherence = hv.machine.coherence
        self._written: set[int] = set()
        self._coherence.followers.append(self._written)
        self._columns: tuple[NDArray[Any], ...] = (
            frames.owner_column,
            frames.type_column,
            frames.flags_column,
            frames.type_count_column,
            frames.refs_column,
        )
        self._before = tuple(np.zeros_like(column) for column in self._columns)
        self._before[0][:] = FREE
        self._differs = np.empty(frames.total, dtype=bool)
        self._one = np.empty(frames.total, dtype=bool)
        self._tables: dict[int, NDArray[np.uint64]] = {}

    def take(self) -> dict[str, list[list[int]]]:
        """The changes since the last call; the first call tells all that is not free."""
        written = self._written | self._coherence.unsettled
        self._written.clear()
        result = {}
        changed = self._changed()
        if len(changed):
            result["frames"] = self._rows(changed)
            flags = self._frames.flags
            for mfn in changed.tolist():
                if flags[mfn] & VALIDATED:
                    written.add(mfn)
                else:
                    self._tables.pop(mfn, None)
        if written:
            entries = [row for mfn in sorted(written) for row in self._entries(mfn)]
            if entries:
                result["entries"] = entries
        return result

    def _changed(self) -> "NDArray[np.intp]":
        """MFNs of the frames whose rows are others than before."""
        differs, one = self._differs, self._one
        np.not_equal(self._columns[0], self._before[0], out=differs)
        for column, before in zip(self._columns[1:], self._before[1:], strict=True):
            np.not_equal(column, before, out=one)
            np.logical_or(differs, one, out=differs)
        return np.flatnonzero(differs)

    def _rows(self, changed: "NDArray[np.intp]") -> list[list[int]]:
        now = np.empty((len(changed), 6), dtype=np.int64)
        now[:, 0] = changed
        for number, (column, before) in enumerate(zip(self._columns, self._before, strict=True)):
            values = column[changed]
            before[changed] = values
            now[:, number + 1] = values
        now[now[:, 4] == 0, 2] = 0  # no type references: no type
        steps = np.diff(now, axis=0)
        steps[:, 0] -= 1
        bounds = [0, *(np.flatnonzero(steps.any(axis=1)) + 1).tolist(), len(changed)]
        rows = now[bounds[:-1]].tolist()
        return [
            [row[0], after - first, *row[1:]]
            for row, (first, after) in zip(rows, pairwise(bounds), strict=True)
        ]

    def _entries(self, mfn: int) -> list[list[int]]:
        """Rows of what changed in a frame, none if it is no validated table."""
        frames = self._frames
        if not frames.flags[mfn] & VALIDATED or frames.type[mfn] not in _TABLES:
            return []
        now = self._array[mfn] & _KEPT
        now[(now & _P) == 0] = 0
        before = self._tables.get(mfn)
        self._tables[mfn] = now
        where = np.flatnonzero(now != before if before is not None else now)
        rows: list[list[int]] = []
        row = [0, -ENTRIES, 0, 0, 0]
        for index, entry in zip(where.tolist(), now[where].tolist(), strict=True):
            _, first, count, start, step = row
            if first + count == index and count == 1:
                row[2], row[4] = 2, entry - start
            elif first + count == index and entry == start + count * step:
                row[2] = count + 1
            else:
                row = [mfn, index, 1, entry, 0]
                rows.append(row)
        return rows
