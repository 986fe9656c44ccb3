"""A trap as one value: why the CPU left guest code.

Source: Intel SDM volume 3A, chapter 6 (vectors, error codes); volume 2 (SYSCALL, HLT, CPUID).
"""

from enum import Enum
from typing import NamedTuple

from emu.units import VA

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
MF, AC, MC, XM = 16, 17, 18, 19

VECTOR_NAMES = {
    DE: "#DE", DB: "#DB", NMI: "NMI", BP: "#BP", OF: "#OF", BR: "#BR", UD: "#UD", NM: "#NM",
    DF: "#DF", TS: "#TS", NP: "#NP", SS: "#SS", GP: "#GP", PF: "#PF", MF: "#MF", AC: "#AC",
    MC: "#MC", XM: "#XM",
}  # fmt: skip

HAS_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, AC})


def vector_name(vector: int) -> str:
    """``#PF`` and the like; ``int 0x82`` for a vector that has no name."""
    return VECTOR_NAMES.get(vector, f"int {vector:#x}")


class TrapKind(Enum):
    """What kind of instruction or event left guest code."""

    EXCEPTION = "exception"
    SOFTWARE_INTERRUPT = "software interrupt"
    SYSCALL = "syscall"
    SYSENTER = "sysenter"
    PORT_IO = "port i/o"


class Trap(NamedTuple):
    """One trap. A tuple, because making one is part of the cost of every fault.

    ``vector``: 0..255, -1 where there is none. ``error_code``: as the CPU would push it, 0 where
    there is none. ``address``: CR2 of a page fault, the port of port I/O, else 0.
    ``rip``: of the instruction for faults and port I/O, after it for software interrupts and
    SYSCALL. ``next_rip``: first byte after a software interrupt, else ``rip``.
    ``position``: instructions that the machine has started, this one included.
    """

    kind: TrapKind
    vector: int
    error_code: int
    address: VA
    rip: VA
    next_rip: VA
    position: int

    def __str__(self) -> str:
        name = vector_name(self.vector) if self.vector >= 0 else self.kind.value
        text = f"{name} at {self.rip:#x}"
        if self.vector in HAS_ERROR_CODE and self.kind is TrapKind.EXCEPTION:
            text += f", error code {self.error_code:#x}"
        if self.vector == PF:
            text += f", address {self.address:#x}"
        return text
