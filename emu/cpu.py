"""CPU state, read and written in place.

A ``Cpu`` names the fields of the engine's live state. General registers are ``words[RAX]`` and so
on: hot code indexes them directly. The rest are properties. After loading CS or SS call
``sync_mode``: the engine caches privilege level and operand sizes apart from the segments.

Source: Intel SDM volume 3A, sections 2.3 (RFLAGS), 3.4.5 (segment descriptors), 5.5 (CPL).
"""

from typing import Final

from emu.cpustate import (
    OFF_CC_DST,
    OFF_CC_OP,
    OFF_CR,
    OFF_DF,
    OFF_EFLAGS,
    OFF_ERROR_CODE,
    OFF_GDT,
    OFF_HFLAGS,
    OFF_IS_INT,
    OFF_LDT,
    OFF_NEXT_EIP,
    OFF_RIP,
    OFF_SEGS,
    SEGMENT_BYTES,
)
from emu.descriptors import (
    SEGMENT,
    SEGMENT_ACCESSED,
    SEGMENT_CODE,
    SEGMENT_DB,
    SEGMENT_L,
    SEGMENT_P,
    SEGMENT_RW,
    SYSTEM_SEGMENT,
)
from emu.engine import FP0, FPU_REGISTERS, XMM0, Engine
from emu.paging import CR0_TS, RFLAGS, RFLAGS_DF, RFLAGS_RF
from emu.units import MFN, PAGE_MASK, PAGE_SHIFT, VA

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
RIP: Final = OFF_RIP >> 3
"""Indices into ``Cpu.words``."""

REGISTER_NAMES: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip

ES, CS, SS, DS, FS, GS = range(6)
SEGMENT_NAMES: Final = ("es", "cs", "ss", "ds", "fs", "gs")

CS_SELECTOR: Final = (OFF_SEGS + CS * SEGMENT_BYTES) >> 2
SS_SELECTOR: Final = (OFF_SEGS + SS * SEGMENT_BYTES) >> 2
"""Indices into ``Cpu.halves`` of the visible selectors."""
CS_ATTRIBUTES: Final = (OFF_SEGS + CS * SEGMENT_BYTES + 20) >> 2
"""Index into ``Cpu.halves`` of what ``Cpu.attributes(CS)`` reads."""

_FLAT: Final = SEGMENT.encode(LIMIT=0xF_FFFF, G=1, P=1, S=1, DPL=3) | SEGMENT_RW | SEGMENT_ACCESSED
CODE64: Final = (_FLAT | SEGMENT_CODE | SEGMENT_L) >> 32
"""Attributes of a flat 64-bit code segment of privilege 3, readable, accessed."""
DATA: Final = (_FLAT | SEGMENT_DB) >> 32
"""Attributes of a flat data segment of privilege 3, writable, accessed."""

_LOCAL_TABLE: Final = (SEGMENT_P | SYSTEM_SEGMENT.encode(TYPE=2)) >> 32
_ARITHMETIC: Final = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")
_CC_OP_EFLAGS: Final = 1
_CR: Final = OFF_CR >> 3
_HF_CPL: Final = 3
_HF_CS32: Final = 1 << 4
_HF_SS32: Final = 1 << 5
_HF_ADDSEG: Final = 1 << 6
_HF_TS: Final = 1 << 11
_HF_LMA: Final = 1 << 14
_HF_CS64: Final = 1 << 15
_HF_MODE: Final = _HF_CPL | _HF_CS32 | _HF_SS32 | _HF_ADDSEG | _HF_CS64
_DESC_L: Final = SEGMENT_L >> 32
_DESC_B: Final = SEGMENT_DB >> 32
_M64: Final = 0xFFFF_FFFF_FFFF_FFFF


class Cpu:
    """The one CPU. ``words``, ``halves`` and ``state`` are live views (u64, u32, bytes)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.words = engine.words
        self.halves = engine.halves
        self.state = engine.state
        self._kernel_gs = engine.kernel_gs_offset >> 3
        self._debug = engine.debug_offset >> 3

    # -- registers -------------------------------------------------------------------------

    @property
    def rip(self) -> VA:
        """Instruction pointer."""
        return VA(self.words[RIP])

    @rip.setter
    def rip(self, value: int) -> None:
        self.words[RIP] = value & _M64

    @property
    def flags(self) -> int:
        """RFLAGS, with the lazily computed arithmetic flags worked out."""
        if self.halves[OFF_CC_OP >> 2] == _CC_OP_EFLAGS:
            words = self.words
            direction = RFLAGS_DF if self.halves[OFF_DF >> 2] == 0xFFFF_FFFF else 0
            rest = words[OFF_EFLAGS >> 3] & ~(_ARITHMETIC | RFLAGS_DF)
            arithmetic = words[(OFF_CC_DST >> 3) + 1] & _ARITHMETIC
            return (rest | arithmetic | direction | 2) & 0xFFFF_FFFF
        return self._engine.flags()

    @flags.setter
    def flags(self, value: int) -> None:
        self.halves[OFF_CC_OP >> 2] = _CC_OP_EFLAGS
        self.words[(OFF_CC_DST >> 3) + 1] = value & _ARITHMETIC
        self.halves[OFF_DF >> 2] = 0xFFFF_FFFF if value & RFLAGS_DF else 1
        self.words[OFF_EFLAGS >> 3] = (value & 0xFFFF_FFFF & ~(_ARITHMETIC | RFLAGS_DF)) | 2

    @property
    def resume(self) -> bool:
        """RFLAGS.RF, without a look at the rest: the next instruction breaks nowhere."""
        return self.words[OFF_EFLAGS >> 3] & RFLAGS_RF != 0

    @resume.setter
    def resume(self, on: bool) -> None:
        flags = self.words[OFF_EFLAGS >> 3] & ~RFLAGS_RF
        self.words[OFF_EFLAGS >> 3] = flags | RFLAGS_RF if on else flags

    def register(self, name: str) -> int:
        """A general register, ``rip`` or ``rflags`` by name.

        Raises:
            KeyError: there is no register of that name.
        """
        if name == "rflags":
            return self.flags
        return self.words[self._index(name)]

    def set_register(self, name: str, value: int) -> None:
        """Write what ``register`` reads; ``value`` is taken modulo 2**64.

        Raises:
            KeyError: there is no register of that name.
        """
        if name == "rflags":
            self.flags = value
        else:
            self.words[self._index(name)] = value & _M64

    @staticmethod
    def _index(name: str) -> int:
        if name == "rip":
            return RIP
        if name not in REGISTER_NAMES:
            known = ", ".join((*REGISTER_NAMES, "rip", "rflags"))
            raise KeyError(f"no register {name!r}; there are {known}")
        return REGISTER_NAMES.index(name)

    # -- control registers -----------------------------------------------------------------

    @property
    def cr0(self) -> int:
        """CR0. Setting it goes through the engine, which derives modes from it."""
        return self.words[_CR]

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._engine.write_control(0, value)

    @property
    def cr2(self) -> VA:
        """CR2, the address of the last page fault."""
        return VA(self.words[_CR + 2])

    @cr2.setter
    def cr2(self, value: int) -> None:
        self.words[_CR + 2] = value & _M64

    @property
    def cr3(self) -> int:
        """CR3. Setting it does not flush the TLB: ``Coherence.flush`` does (one flush a trap)."""
        return self.words[_CR + 3]

    @cr3.setter
    def cr3(self, value: int) -> None:
        self.words[_CR + 3] = value

    @property
    def cr4(self) -> int:
        """CR4. Setting it goes through the engine, which derives modes from it."""
        return self.words[_CR + 4]

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._engine.write_control(4, value)

    @property
    def table(self) -> MFN:
        """The frame that CR3 points at."""
        return MFN((self.words[_CR + 3] & ~PAGE_MASK & ((1 << 52) - 1)) >> PAGE_SHIFT)

    def set_task_switched(self, on: bool) -> None:
        """CR0.TS and the engine's copy of it (#NM on the next FPU instruction)."""
        if on:
            self.words[_CR] |= CR0_TS
            self.halves[OFF_HFLAGS >> 2] |= _HF_TS
        else:
            self.words[_CR] &= ~CR0_TS & _M64
            self.halves[OFF_HFLAGS >> 2] &= ~_HF_TS & 0xFFFF_FFFF

    def write_msr(self, msr: int, value: int) -> None:
        """Write an MSR of the emulated CPU (EFER, STAR)."""
        self._engine.write_msr(msr, value)

    # -- segments --------------------------------------------------------------------------

    def selector(self, segment: int) -> int:
        """Visible selector of segment register ``segment`` (ES..GS)."""
        return self.halves[(OFF_SEGS + segment * SEGMENT_BYTES) >> 2] & 0xFFFF

    def segment_base(self, segment: int) -> int:
        """Linear base of a segment register."""
        return self.words[(OFF_SEGS + segment * SEGMENT_BYTES + 8) >> 3]

    def set_segment_base(self, segment: int, base: int) -> None:
        """Change only the hidden base (FS and GS in 64-bit mode)."""
        self.words[(OFF_SEGS + segment * SEGMENT_BYTES + 8) >> 3] = base

    @property
    def kernel_gs_base(self) -> int:
        """The MSR that SWAPGS exchanges with the GS base."""
        return self.words[self._kernel_gs]

    @kernel_gs_base.setter
    def kernel_gs_base(self, value: int) -> None:
        self.words[self._kernel_gs] = value

    def load_segment(
        self, segment: int, selector: int, attributes: int, base: int = 0, limit: int = 0xFFFF_FFFF
    ) -> None:
        """Fill a segment register: visible part and hidden descriptor cache.

        ``attributes`` is the high dword of the descriptor (SDM volume 3A, figure 3-8) without base
        and limit bits; ``limit`` is in bytes. A null data segment has attributes 0.
        """
        at = OFF_SEGS + segment * SEGMENT_BYTES
        self.halves[at >> 2] = selector
        self.words[(at + 8) >> 3] = base
        self.halves[(at + 16) >> 2] = limit
        self.halves[(at + 20) >> 2] = attributes

    def set_descriptor_table(self, base: VA, limit: int) -> None:
        """GDTR: linear base, limit in bytes."""
        self.words[(OFF_GDT + 8) >> 3] = base
        self.halves[(OFF_GDT + 16) >> 2] = limit

    def set_local_table(self, selector: int, base: VA, limit: int) -> None:
        """LDTR with its hidden part; ``limit`` in bytes. Selector 0: there is none."""
        self.halves[OFF_LDT >> 2] = selector
        self.words[(OFF_LDT + 8) >> 3] = base
        self.halves[(OFF_LDT + 16) >> 2] = limit
        self.halves[(OFF_LDT + 20) >> 2] = _LOCAL_TABLE if selector else 0

    def attributes(self, segment: int) -> int:
        """High dword of the cached descriptor of a segment register."""
        return self.halves[(OFF_SEGS + segment * SEGMENT_BYTES + 20) >> 2]

    @property
    def cpl(self) -> int:
        """Current privilege level, 0..3."""
        return self.halves[OFF_HFLAGS >> 2] & _HF_CPL

    @property
    def bits(self) -> int:
        """Width of the running code segment: 64, 32 or 16."""
        flags = self.halves[OFF_HFLAGS >> 2]
        if flags & _HF_CS64:
            return 64
        return 32 if flags & _HF_CS32 else 16

    def sync_mode(self) -> None:
        """Derive privilege level and operand sizes from the CS and SS caches; call after a load."""
        code = self.attributes(CS)
        mode = (code >> 13) & 3
        if code & _DESC_L and self.halves[OFF_HFLAGS >> 2] & _HF_LMA:
            mode |= _HF_CS64 | _HF_CS32 | _HF_SS32
        else:
            mode |= _HF_CS32 if code & _DESC_B else 0
            mode |= _HF_SS32 if self.attributes(SS) & _DESC_B else 0
            if any(self.segment_base(s) for s in (ES, SS, DS)):
                mode |= _HF_ADDSEG
        halves = self.halves
        halves[OFF_HFLAGS >> 2] = (halves[OFF_HFLAGS >> 2] & ~_HF_MODE) | mode

    # -- the last exception ----------------------------------------------------------------

    @property
    def error_code(self) -> int:
        """Error code of the exception being delivered."""
        return self.halves[OFF_ERROR_CODE >> 2]

    @property
    def exception_is_int(self) -> bool:
        """True if the vector being delivered came from INT n, INT3 or INTO."""
        return self.halves[OFF_IS_INT >> 2] != 0

    @property
    def exception_next_rip(self) -> VA:
        """First byte behind the INT instruction being delivered."""
        return VA(self.words[OFF_NEXT_EIP >> 3])

    # -- x87 and SSE, for debuggers --------------------------------------------------------

    def read_fpu(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...], dict[str, int]]:
        """ST(0..7) as ten bytes each, XMM0..15 as sixteen, and the other registers by name."""
        read = self._engine.read_register
        stack = []
        for number in range(8):
            mantissa, exponent = read(self._physical(number))
            stack.append(mantissa.to_bytes(8, "little") + exponent.to_bytes(2, "little"))
        xmm = tuple(int(read(XMM0 + number)).to_bytes(16, "little") for number in range(16))
        rest = {name: int(read(number)) for name, number in FPU_REGISTERS.items()}
        return tuple(stack), xmm, rest

    def write_fpu(self, name: str, value: int) -> bool:
        """Set ``st0``, ``xmm0`` and so on or one of ``FPU_REGISTERS``; False for other names."""
        write = self._engine.write_register
        for prefix, count in (("st", 8), ("xmm", 16)):
            number = name.removeprefix(prefix)
            if number != name and number.isdigit() and int(number) < count:
                if prefix == "st":
                    write(self._physical(int(number)), (value & _M64, value >> 64 & 0xFFFF))
                else:
                    write(XMM0 + int(number), value & ((1 << 128) - 1))
                return True
        if name not in FPU_REGISTERS:
            return False
        write(FPU_REGISTERS[name], value & 0xFFFF_FFFF)
        return True

    def _physical(self, number: int) -> int:
        """The binding's number of ST(``number``): the stack's top is in the status word."""
        top = int(self._engine.read_register(FPU_REGISTERS["fstat"])) >> 11 & 7
        return FP0 + (top + number & 7)

    # -- whole state -----------------------------------------------------------------------

    def save(self) -> bytes:
        """The whole state as one opaque value, for ``load`` in the same process."""
        return self.state.tobytes()

    def load(self, saved: bytes) -> None:
        """Put back what ``save`` gave. The TLB still holds the old address space: flush it."""
        self.state[:] = saved
