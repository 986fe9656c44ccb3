"""What CPUID tells a guest: one table, the same on every machine.

Real Xen answers PV guests from a policy wherever it can make CPUID fault, and otherwise shows the
hardware with some bits masked. Here CPUID always traps, so the policy is all that a guest sees,
whether it executes the instruction natively or behind the forced-emulation prefix.

A 32-bit guest has no long mode, so that neither that nor what depends on it is there: SYSCALL
(on Intel's CPUs), CMPXCHG16B, LAHF, and linear addresses of more than 32 bits.

The policy is what the emulated CPU really does (a Broadwell without AVX) less what a PV guest
has no use of or must not see: VME, PSE, PSE36, PGE, MTRR, SMEP, SMAP and the APIC belong to whoever
owns ring 0; XSAVE is not offered; RDRAND and RDSEED would make runs differ.

A leaf outside the table answers zeros, which is how AMD defines it; Intel's habit of repeating the
last basic leaf serves nobody.

Source: Intel SDM volume 2A, CPUID; Xen's arch-x86/cpuid.h (leaves from 0x40000000) and
arch-x86/cpufeatureset.h (which features Xen offers to PV guests).
"""

import struct
from typing import Final

from emu.machine import CpuidResult
from hypervisor.abi import Width

XEN_VERSION: Final = (4, 17)
XEN_LEAVES: Final = 0x4000_0000
_VENDOR: Final = b"GenuineIntel"
_XEN: Final = b"XenVMMXenVMM"
_BRAND: Final = b"cowbird virtual x86-64 CPU"
_NOTHING: Final[CpuidResult] = (0, 0, 0, 0)

_FEATURES_1_EDX: Final = {
    "FPU": 0, "DE": 2, "TSC": 4, "MSR": 5, "PAE": 6, "MCE": 7, "CX8": 8, "SEP": 11, "MCA": 14,
    "CMOV": 15, "PAT": 16, "CLFLUSH": 19, "MMX": 23, "FXSR": 24, "SSE": 25, "SSE2": 26,
}  # fmt: skip
_FEATURES_1_ECX: Final = {
    "SSE3": 0, "PCLMULQDQ": 1, "SSSE3": 9, "CX16": 13, "SSE4.1": 19, "SSE4.2": 20, "MOVBE": 22,
    "POPCNT": 23, "AESNI": 25, "HYPERVISOR": 31,
}  # fmt: skip
_FEATURES_7_EBX: Final = {"FSGSBASE": 0, "BMI1": 3, "BMI2": 8, "ERMS": 9, "ADX": 19}
_FEATURES_EXTENDED_EDX: Final = {"SYSCALL": 11, "NX": 20, "RDTSCP": 27, "LM": 29}
_FEATURES_EXTENDED_ECX: Final = {"LAHF": 0, "LZCNT": 5}

_SIGNATURE: Final = 0x0003_06D2
"""Family 6, model 0x3d, stepping 2."""
_CLFLUSH_LINE: Final = 8 << 8
"""Leaf 1 EBX: CLFLUSH works on 8 quadwords."""
_ADDRESS_BITS: Final[dict[Width, int]] = {64: 0x3028, 32: 0x2028}
"""Leaf 0x80000008: 40 physical and 48 or 32 linear address bits."""
_LONG_MODE: Final = frozenset({"LM", "SYSCALL", "CX16", "LAHF"})
_PRESERVE_AD: Final = 1
"""XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD."""
_VTSC: Final = 1
_RDTSCP: Final = 4
_ALWAYS_EMULATE: Final = 1
"""Leaf 0x40000003: EAX says that the TSC is emulated and RDTSCP works, EBX that it always is."""


def _bits(features: dict[str, int], width: Width = 64) -> int:
    hidden = _LONG_MODE if width == 32 else frozenset()
    return sum(1 << bit for name, bit in features.items() if name not in hidden)


def _text(text: bytes) -> CpuidResult:
    eax, ebx, ecx, edx = struct.unpack("<4I", text.ljust(16, b"\0")[:16])
    return eax, ebx, ecx, edx


def _vendor(leaf: int, name: bytes) -> CpuidResult:
    first, second, third = struct.unpack("<3I", name)
    # Intel's order of the name is EBX, EDX, ECX.
    return leaf, first, third, second


def _xen(leaf: int) -> CpuidResult:
    first, second, third = struct.unpack("<3I", _XEN)
    return leaf, first, second, third


def policy(mfn_bits: int, tsc_khz: int, width: Width) -> dict[tuple[int, int], CpuidResult]:
    """The whole table: (leaf, subleaf) -> (EAX, EBX, ECX, EDX).

    ``mfn_bits``: bits of the machine's largest frame number; ``tsc_khz``: rate of the virtual TSC
    in kHz; ``width``: of the guests. A leaf that has no subleaves is listed under subleaf 0 and
    answers for all of them.
    """
    brand = _BRAND.ljust(48, b"\0")
    return {
        (0, 0): _vendor(7, _VENDOR),
        (1, 0): (_SIGNATURE, _CLFLUSH_LINE, _bits(_FEATURES_1_ECX, width), _bits(_FEATURES_1_EDX)),
        (7, 0): (0, _bits(_FEATURES_7_EBX), 0, 0),
        (XEN_LEAVES, 0): _xen(XEN_LEAVES + 5),
        (XEN_LEAVES + 1, 0): (XEN_VERSION[0] << 16 | XEN_VERSION[1], 0, 0, 0),
        # No pages to install by MSR: the builder fills the hypercall page that the ELF note names.
        (XEN_LEAVES + 2, 0): (0, 0, _PRESERVE_AD, 0),
        (XEN_LEAVES + 3, 0): (_VTSC | _RDTSCP, _ALWAYS_EMULATE, tsc_khz, 0),
        (XEN_LEAVES + 5, 0): (0, mfn_bits + 12, 0, 0),
        (0x8000_0000, 0): (0x8000_0008, 0, 0, 0),
        (0x8000_0001, 0): (
            0,
            0,
            _bits(_FEATURES_EXTENDED_ECX, width),
            _bits(_FEATURES_EXTENDED_EDX, width),
        ),
        (0x8000_0002, 0): _text(brand[:16]),
        (0x8000_0003, 0): _text(brand[16:32]),
        (0x8000_0004, 0): _text(brand[32:]),
        (0x8000_0008, 0): (_ADDRESS_BITS[width], 0, 0, 0),
    }


_WITH_SUBLEAVES: Final = frozenset({7, XEN_LEAVES + 3, XEN_LEAVES + 5})


def answer(table: dict[tuple[int, int], CpuidResult], leaf: int, subleaf: int) -> CpuidResult:
    """What CPUID leaves in EAX, EBX, ECX and EDX."""
    return table.get((leaf, subleaf if leaf in _WITH_SUBLEAVES else 0), _NOTHING)
