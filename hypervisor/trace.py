"""A run as JSON lines: one object per event, in order, nothing of the host in it.

Every line has ``position`` (guest instructions started on the machine), ``seq`` (0, 1, 2...),
``domain`` (id, or null for the machine) and ``event``; the rest depends on the event. Numbers are
decimal; frames are MFNs. The same guests, arguments and seed give the same lines, byte for byte.
"""

import json
from collections.abc import Callable
from typing import Any

from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor

TRACE_VERSION = 1


class Tracer:
    """Listens to a hypervisor and writes each event with ``write`` (one line, newline included)."""

    def __init__(self, hv: Hypervisor, write: Callable[[str], object]) -> None:
        self._hv = hv
        self._write = write
        self.events = 0
        write(json.dumps({"trace": "cowbird", "version": TRACE_VERSION}) + "\n")
        hv.listen(self._happened)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        line = {
            "position": self._hv.machine.position,
            "seq": self.events,
            "domain": None if domain is None else domain.id,
            "event": kind,
            **details,
        }
        self.events += 1
        self._write(json.dumps(line, separators=(",", ":")) + "\n")
