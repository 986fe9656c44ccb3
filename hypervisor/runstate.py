"""How long each domain's vCPU has run, waited for the CPU and been blocked.

Times are virtual nanoseconds. A guest may have its record written into its own memory whenever it
is scheduled in; an area that has become unmapped is left alone, as in Xen. There is one CPU and a
domain has one vCPU, so nobody can read a record while it is written: XEN_RUNSTATE_UPDATE, the mark
of an update under way, is never seen set, with the assist that asks for it or without.

Source: vcpu.h (vcpu_runstate_info, XEN_RUNSTATE_UPDATE).
"""

import struct
from typing import TYPE_CHECKING, Final

from hypervisor.abi import RunState, Width
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.guestmem import GuestMemory

_INFO: Final[dict[Width, struct.Struct]] = {
    64: struct.Struct("<i4xQ4Q"),
    32: struct.Struct("<iQ4Q"),
}


class _Record:
    """One vCPU: its state, since when, and the time in each."""

    def __init__(self, since: int) -> None:
        self.state = RunState.runnable
        self.since = since
        self.times = [0] * len(RunState)
        self.area: int | None = None


class RunStates:
    """The records of all domains."""

    def __init__(self, guest: "GuestMemory") -> None:
        self._guest = guest
        self._records: dict[int, _Record] = {}

    def change(self, domain: Domain, state: RunState, now: int) -> None:
        """A vCPU goes into ``state`` at ``now``."""
        record = self._records.get(domain.id)
        if record is None:
            record = self._records[domain.id] = _Record(now)
        record.times[record.state] += now - record.since
        record.state, record.since = state, now

    def forget(self, domain: Domain) -> None:
        """A domain is gone."""
        self._records.pop(domain.id, None)

    def info(self, domain: Domain, now: int) -> bytes:
        """``vcpu_runstate_info``, the time in the present state up to now included."""
        record = self._records.get(domain.id) or _Record(now)
        times = list(record.times)
        times[record.state] += now - record.since
        return _INFO[domain.width].pack(record.state, record.since, *times)

    def register(self, domain: Domain, area: int, now: int) -> None:
        """Write the record to the domain's linear address ``area`` from now on."""
        self._guest.write_kernel(domain, area, self.info(domain, now))
        self._records.setdefault(domain.id, _Record(now)).area = area

    def write(self, domain: Domain, now: int) -> None:
        """The domain was scheduled in: bring its area up to date."""
        record = self._records.get(domain.id)
        if record is None or record.area is None:
            return
        self._guest.write_kernel(domain, record.area, self.info(domain, now))
