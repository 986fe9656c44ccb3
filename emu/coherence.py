"""TLB and translation coherence: the one place that owns it.

Two caches stand between machine memory and the guest's next instruction: the TLB, and the
translated code of the engine. The CPU keeps both right for what the *guest* does. What the host
does to memory is invisible to them, so whoever changes a page table or writes into a frame says so
here, and ``settle`` makes it true before the guest runs again.

Invariants:

- Nothing is settled while the host is still in the trap: one CPU, and it is not running guest
  code, so a whole batch of updates needs one flush.
- ``settle`` runs at the end of every trap and before every run (``emu.machine``); there is no
  other way back into guest code.
- Flushing more than was asked is always allowed; the architecture lets a TLB forget at any time.

There is no PCID: a new CR3 drops everything (SDM volume 3A, section 4.10.4.1), and the G bit is
ignored by the engine.
"""

from collections.abc import Callable

from emu.engine import Engine
from emu.units import MFN, PAGE_SHIFT, VA

_MANY_PAGES = 32
"""Beyond this many single pages one whole flush is cheaper."""


class Coherence:
    """Collects what became stale, and settles it.

    ``pending`` is True while there is anything to settle. ``flushes`` and ``page_flushes`` count
    what was really done.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._all = False
        self._pages: list[VA] = []
        self._written: set[int] = set()
        self.pending = False
        self.flushes = 0
        self.page_flushes = 0
        self.on_flush: Callable[[], None] | None = None
        """Called when translations were forgotten: for who follows where a page is mapped."""
        self.followers: list[set[int]] = []
        """Sets to which every written frame is added, at the latest when it is settled: for who
        wants to know what changed without looking at all of memory."""

    def flush(self) -> None:
        """Any translation may have lost rights: forget all of them before the guest goes on."""
        self._all = True
        self.pending = True

    def flush_page(self, va: VA) -> None:
        """The translation of the page of ``va`` in the current address space is stale."""
        self._pages.append(va)
        self.pending = True

    def wrote(self, mfn: MFN) -> None:
        """The host wrote into frame ``mfn``; code translated from it must go."""
        self._written.add(mfn)
        self.pending = True

    @property
    def unsettled(self) -> frozenset[int]:
        """Frames that were written and are not settled yet."""
        return frozenset(self._written)

    def flush_now(self) -> None:
        """Settle, and forget all translations, without counting it: memory was replaced whole."""
        counts = self.flushes, self.page_flushes
        self.flush()
        self.settle()
        self.flushes, self.page_flushes = counts

    def settle(self) -> None:
        """Make all of the above true; the guest may run afterwards."""
        self.pending = False
        engine = self._engine
        if self._written:
            self._drop_code()
        flushed = self._all or bool(self._pages)
        if self._all or len(self._pages) > _MANY_PAGES:
            engine.flush_tlb()
            self.flushes += 1
        elif self._pages:
            for va in self._pages:
                engine.flush_tlb_page(va)
            self.page_flushes += len(self._pages)
        self._all = False
        self._pages.clear()
        if flushed and self.on_flush is not None:
            self.on_flush()

    def _drop_code(self) -> None:
        """Drop the code of the written frames; neighbours by one call, as a batch leaves them."""
        engine, written = self._engine, self._written
        for follower in self.followers:
            follower |= written
        if len(written) == 1:
            (mfn,) = written
            engine.wrote(mfn << PAGE_SHIFT, (mfn + 1) << PAGE_SHIFT)
        else:
            first = end = -1
            for mfn in sorted(written):
                if mfn != end:
                    if end >= 0:
                        engine.wrote(first << PAGE_SHIFT, end << PAGE_SHIFT)
                    first = mfn
                end = mfn + 1
            engine.wrote(first << PAGE_SHIFT, end << PAGE_SHIFT)
        written.clear()
