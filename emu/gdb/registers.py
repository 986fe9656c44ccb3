"""The registers that gdb is told of, for both widths: order, sizes, and their bytes.

The order below is the numbering of ``g``, ``G``, ``p`` and ``P`` and of the target description,
which is made from it. The first group is what gdb insists on for the architecture; then come the
bases of FS and GS, the vector registers, and those that only a kernel has.

``Register.source`` is the name by which a target gives and takes the value: those of
``emu.registers.Registers``, so that a target need not know of widths.

Source: gdb's features/i386/*.xml (names and order), Intel SDM volume 1 section 8.1 (x87).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from emu.cpu import REGISTER_NAMES, SEGMENT_NAMES
from emu.registers import BASES, CONTROLS, FPU_WORDS, Registers

CORE: Final = "org.gnu.gdb.i386.core"
SSE: Final = "org.gnu.gdb.i386.sse"
SEGMENTS: Final = "org.gnu.gdb.i386.segments"
SYSTEM: Final = "org.cowbird.system"

_X87_CONTROL: Final = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_ORDER64: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_ORDER32: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_SELECTORS: Final = ("cs", "ss", "ds", "es", "fs", "gs")
SYSTEM_REGISTERS: Final = ("k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer")


@dataclass(frozen=True, slots=True)
class Register:
    """One register as gdb sees it."""

    name: str
    bits: int
    type: str
    feature: str
    source: str
    group: str = ""

    @property
    def size(self) -> int:
        """Bytes in a packet."""
        return self.bits // 8

    def encode(self, values: Mapping[str, int]) -> bytes:
        """Its hex digits, little endian; ``xx`` for each byte if there is no value."""
        value = values.get(self.source)
        if value is None:
            return b"xx" * self.size
        raw = (value & ((1 << self.bits) - 1)).to_bytes(self.size, "little")
        return raw.hex().encode("ascii")


@cache
def registers(width: int) -> tuple[Register, ...]:
    """All registers of a 32-bit or 64-bit process, in the order of their numbers."""
    if width == 64:
        core = [Register(name, 64, "int64", CORE, name) for name in _ORDER64]
        core[6] = Register("rbp", 64, "data_ptr", CORE, "rbp")
        core[7] = Register("rsp", 64, "data_ptr", CORE, "rsp")
        core.append(Register("rip", 64, "code_ptr", CORE, "rip"))
    else:
        core = [Register("e" + name[1:], 32, "int32", CORE, name) for name in _ORDER32]
        core[4] = Register("esp", 32, "data_ptr", CORE, "rsp")
        core[5] = Register("ebp", 32, "data_ptr", CORE, "rbp")
        core.append(Register("eip", 32, "code_ptr", CORE, "rip"))
    core.append(Register("eflags", 32, "i386_eflags", CORE, "rflags"))
    core += [Register(name, 32, "int32", CORE, name) for name in _SELECTORS]
    core += [Register(f"st{i}", 80, "i387_ext", CORE, f"st{i}") for i in range(8)]
    core += [Register(name, 32, "int", CORE, name, "float") for name in _X87_CONTROL]
    vectors = 16 if width == 64 else 8
    sse = [Register(f"xmm{i}", 128, "vec128", SSE, f"xmm{i}") for i in range(vectors)]
    sse.append(Register("mxcsr", 32, "i386_mxcsr", SSE, "mxcsr", "vector"))
    plain = "int64" if width == 64 else "int32"
    # gdb 13 fails an assertion of its own on an i386 with the feature for segment bases.
    home = SEGMENTS if width == 64 else SYSTEM
    bases = [Register(f"{s}_base", width, plain, home, f"{s}_base") for s in ("fs", "gs")]
    system = []
    for name in SYSTEM_REGISTERS:
        if width == 32 and name == "k_gs_base":
            continue
        bits = 64 if width == 64 or name == "efer" else 32
        flags = f"cowbird_{name}" if name in ("cr0", "cr3", "cr4", "efer") else f"int{bits}"
        system.append(Register(name, bits, flags, SYSTEM, name, "general"))
    return (*core, *sse, *bases, *system)


@cache
def standard(width: int) -> tuple[Register, ...]:
    """The first of them, which gdb counts alike for a process that it has no description of."""
    known = (CORE, SSE, SEGMENTS)
    return tuple(register for register in registers(width) if register.feature in known)


_EVERY: Final = (
    *REGISTER_NAMES, "rip", "rflags", *SEGMENT_NAMES, *BASES, *CONTROLS, *FPU_WORDS,
    *(f"st{i}" for i in range(8)), *(f"xmm{i}" for i in range(16)),
)  # fmt: skip


def values(state: Registers) -> dict[str, int]:
    """A CPU's registers by source name."""
    return {name: state.value(name) for name in _EVERY}


def encode(layout: Sequence[Register], state: Mapping[str, int]) -> bytes:
    """The answer to ``g``."""
    return b"".join(register.encode(state) for register in layout)


def decode(layout: Sequence[Register], raw: bytes) -> list[tuple[Register, int]]:
    """What a ``G`` packet's bytes say; a short one sets the first registers.

    Raises:
        ValueError: it is longer than all registers, or ends inside one.
    """
    found: list[tuple[Register, int]] = []
    at = 0
    for register in layout:
        if at == len(raw):
            return found
        part = raw[at : at + register.size]
        if len(part) != register.size:
            raise ValueError(f"register {register.name} is cut short")
        found.append((register, int.from_bytes(part, "little")))
        at += register.size
    if at != len(raw):
        raise ValueError(f"{len(raw)} bytes where all registers are {at}")
    return found
