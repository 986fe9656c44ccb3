"""What a condition may call things: registers, memory, and where the machine is."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from emu.cpu import REGISTER_NAMES
from hypervisor.debug.model import DebugError
from hypervisor.debug.state import DomainState
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor

_NARROW: Final = {f"e{name[1:]}": name for name in (*REGISTER_NAMES[:8], "rip")} | {
    "eflags": "rflags"
}
"""Names of the lower halves."""


class CpuNames(Mapping[str, Any]):
    """Registers of the running domain by name, ``position``, ``domain``, and ``u8``..``u64``.

    ``eax`` and the like are lower halves. ``u32(va)`` and the like read the domain's memory; what
    is not mapped has no value.
    """

    _SIZES: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}

    def __init__(self, hv: Hypervisor, state: DomainState, domain: Domain) -> None:
        self._hv = hv
        self._state = state
        self._domain = domain
        self.more: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        cpu = self._hv.machine.cpu
        if name in self.more:
            return self.more[name]
        if name in REGISTER_NAMES or name in ("rip", "rflags"):
            return cpu.register(name)
        if name in _NARROW:
            return cpu.register(_NARROW[name]) & 0xFFFF_FFFF
        if name == "position":
            return self._hv.machine.position
        if name == "domain":
            return self._domain.id
        if name in ("cr2", "cr3"):
            return int(getattr(cpu, name))
        if name in self._SIZES:
            return lambda va: self._number(va, self._SIZES[name])
        raise KeyError(name)

    def _number(self, va: int, size: int) -> int:
        data = self._state.read(self._domain.id, va, size)
        if len(data) < size:
            raise DebugError(f"nothing is mapped at {va:#x}")
        return int.from_bytes(data, "little")

    def __iter__(self) -> Iterator[str]:
        return iter((*self.more, *REGISTER_NAMES, "rip", "rflags", "position", "domain"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True
