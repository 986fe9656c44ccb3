"""A run as JSON lines: one object per event, in order, nothing of the host in it.

The first line is ``{"trace": "cowbird", "version": 1, ...}``. Every other line has ``position``
(guest instructions started on the machine), ``seq`` (0, 1, 2...), ``domain`` (id, or null for the
machine) and ``event``; the rest depends on the event. Numbers are decimal; frames are MFNs. The
same guests, arguments and seed give the same lines, byte for byte.

With ``frames`` the first line also has ``frames``, the number of frames of the machine, and a line
may have ``frames`` and ``entries``: what changed in the frame table and in the page tables until
the event was told, as ``hypervisor.framelog`` codes it. What the operation in hand does afterwards
comes with the next event; of a hypercall its own event is the last.

The schema is ``hypervisor/schema/trace-1.json``. A later version may add events and keys under the
same number, and a reader passes over those that it does not know; a key that changes its meaning or
goes away raises ``TRACE_VERSION``.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from hypervisor.domain import Domain
from hypervisor.framelog import FrameLog
from hypervisor.hypervisor import Hypervisor

TRACE_VERSION: Final = 1


class Tracer:
    """Listens to a hypervisor and writes each event with ``write`` (one line, newline included).

    ``frames``: also what changes in the frame table and the page tables. Make it before the first
    domain.

    A trace tells one history. A debugger that goes back may change the past and so begin another:
    it says so by ``cut``.
    """

    def __init__(
        self, hv: Hypervisor, write: Callable[[str], object], *, frames: bool = False
    ) -> None:
        self._hv = hv
        self._write = write
        self._log = FrameLog(hv) if frames else None
        self.events = 0
        self._position = 0
        self._over = False
        header: dict[str, Any] = {"trace": "cowbird", "version": TRACE_VERSION}
        if frames:
            header["frames"] = hv.frames.total
        write(json.dumps(header) + "\n")
        hv.listen(self._happened)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if self._over:
            return
        self._position = self._hv.machine.position
        line = {
            "position": self._position,
            "seq": self.events,
            "domain": None if domain is None else domain.id,
            "event": kind,
            **details,
        }
        if self._log is not None:
            line |= self._log.take()
        self.events += 1
        self._write(json.dumps(line, separators=(",", ":")) + "\n")

    def cut(self, position: int) -> None:
        """Another future begins at ``position``: if some of the old one was told, the trace ends.

        What was written cannot be taken back, and what comes now does not follow from it.
        """
        if position < self._position:
            self._over = True
