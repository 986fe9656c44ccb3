"""Which thread a person looks at in gdb, for ``monitor``, which gdb sends without saying it.

``Hg`` says which thread the next packet is about, and gdb changes it for its own purposes: to set
breakpoints in other inferiors, to list all threads. What counts is whose frame gdb shows: for that
it reads a byte at the thread's next instruction, some times in a row. ``inferior N`` and ``thread
N`` do so, and so does every stop. ``info threads`` does so for all of them in turn, after it has
asked for the list on behalf of the selected one: that is recognised and passed over.

A guess, made of what stock gdb sends (13.1); where it is wrong, ``inferior N`` puts it right.
"""

from collections.abc import Sequence

from emu.gdb.target import ThreadId


class Selection:
    """``chosen``: the thread that a person has selected, as far as can be seen."""

    def __init__(self, first: ThreadId | None) -> None:
        self.chosen = first
        self._after_stop = True
        """The list of threads that follows a stop is gdb's own wish."""
        self._scan: list[ThreadId] = []
        self._at = -1
        self._reads = 0
        self._each = 0

    def stopped(self, thread: ThreadId) -> None:
        """A stop of ``thread`` was reported, or it was selected by name."""
        self.chosen = thread
        self._after_stop = True
        self._scan = []

    def named(self, thread: ThreadId) -> None:
        """``thread N`` asks whether it is alive."""
        self.chosen = thread
        self._scan = []

    def listed(self, selected: ThreadId | None, threads: Sequence[ThreadId]) -> None:
        """The list of threads was asked for, on behalf of ``selected``."""
        if self._after_stop:
            self._after_stop = False
            return
        if selected is not None:
            self.chosen = selected
        self._scan, self._at, self._reads, self._each = list(threads), -1, 0, 0

    def looked(self, thread: ThreadId) -> None:
        """The byte at the next instruction of ``thread`` was read."""
        if self._scan:
            if self._at >= 0 and thread == self._scan[self._at]:
                self._reads += 1
                if self._at == 0:
                    self._each = self._reads
                if self._reads <= self._each:
                    return
            elif self._at + 1 < len(self._scan) and thread == self._scan[self._at + 1]:
                self._at, self._reads = self._at + 1, 1
                if self._at == 0:
                    self._each = 1
                return
            self._scan = []
        self.chosen = thread
