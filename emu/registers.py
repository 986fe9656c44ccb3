"""All registers of a CPU state as one value, for debuggers.

The general registers come from the live state in place; x87 and SSE, which nothing hot needs, by
the engine's own interface. Reading changes nothing.

Source: Intel SDM volume 1, chapters 3 (basic environment), 8 (x87 FPU) and 10 (SSE); volume 3A,
section 2.5 (control registers).
"""

from dataclasses import dataclass
from typing import Final

from emu.cpu import FS, GS, REGISTER_NAMES, SEGMENT_NAMES, Cpu
from emu.paging import EFER

_EFER: Final = EFER.mask("NXE", "LMA", "LME", "SCE")
_M64: Final = (1 << 64) - 1
BASES: Final = ("fs_base", "gs_base", "k_gs_base")
CONTROLS: Final = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
FPU_WORDS: Final = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop", "mxcsr")
SETTABLE: Final = frozenset((*REGISTER_NAMES, "rip", "rflags", *BASES, "cr2", *FPU_WORDS))
"""Registers that ``set_register`` writes, besides ``st0``..``st7`` and ``xmm0``..``xmm15``."""


@dataclass(frozen=True, slots=True)
class Registers:
    """One CPU. ``general`` in the order of ``REGISTER_NAMES``, ``selectors`` of ``SEGMENT_NAMES``.

    ``st`` are the stack registers ST(0).. as the ten bytes of FSTP m80, ``xmm`` sixteen bytes each,
    both little-endian; ``fpu`` the other x87 registers and MXCSR by name. ``bits``: width of the
    code segment.
    """

    general: tuple[int, ...]
    rip: int
    rflags: int
    selectors: tuple[int, ...]
    fs_base: int
    gs_base: int
    k_gs_base: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    bits: int
    cpl: int
    st: tuple[bytes, ...]
    xmm: tuple[bytes, ...]
    fpu: dict[str, int]

    def value(self, name: str) -> int:
        """Any register by name, ``st0`` and ``xmm0`` and the like as integers.

        Raises:
            KeyError: there is none of that name.
        """
        if name in REGISTER_NAMES:
            return self.general[REGISTER_NAMES.index(name)]
        if name in SEGMENT_NAMES:
            return self.selectors[SEGMENT_NAMES.index(name)]
        if name in self.fpu:
            return self.fpu[name]
        if name in ("rip", "rflags", *BASES, *CONTROLS):
            return int(getattr(self, name))
        for prefix, values in (("st", self.st), ("xmm", self.xmm)):
            number = name.removeprefix(prefix)
            if number != name and number.isdigit() and int(number) < len(values):
                return int.from_bytes(values[int(number)], "little")
        raise KeyError(name)


def read_registers(cpu: Cpu) -> Registers:
    """All registers of the state that is in the CPU."""
    st, xmm, fpu = cpu.read_fpu()
    return Registers(
        general=tuple(cpu.words[:16]),
        rip=cpu.rip,
        rflags=cpu.flags,
        selectors=tuple(cpu.selector(segment) for segment in range(len(SEGMENT_NAMES))),
        fs_base=cpu.segment_base(FS),
        gs_base=cpu.segment_base(GS),
        k_gs_base=cpu.kernel_gs_base,
        cr0=cpu.cr0,
        cr2=cpu.cr2,
        cr3=cpu.cr3,
        cr4=cpu.cr4,
        cr8=0,
        efer=_EFER,
        bits=cpu.bits,
        cpl=cpu.cpl,
        st=st,
        xmm=xmm,
        fpu=fpu,
    )


def write_register(cpu: Cpu, name: str, value: int) -> None:
    """Set one register of the state that is in the CPU; ``value`` is cut to its width.

    Raises:
        KeyError: there is none of that name, or it is not one that may be set.
    """
    if name in ("fs_base", "gs_base"):
        cpu.set_segment_base(FS if name == "fs_base" else GS, value & _M64)
    elif name == "k_gs_base":
        cpu.kernel_gs_base = value & _M64
    elif name == "cr2":
        cpu.cr2 = value
    elif name in REGISTER_NAMES or name in ("rip", "rflags"):
        cpu.set_register(name, value)
    elif not cpu.write_fpu(name, value):
        raise KeyError(name)
