"""What RDMSR and WRMSR do for a guest's kernel: one table of what there is.

A register that is not here is #GP, as in Xen 4.17; a 32-bit guest has no segment bases, and its
EFER shows no long mode. Most of those that are here are constant, and a write to them is accepted
and ignored where Xen does so; of the machine-check registers, of which a guest has two banks, only
the status is kept.

Source: Intel SDM volume 4; Xen 4.17's policy for an unprivileged PV guest, in so far as it shows in
what it tells its first domain.
"""

from typing import TYPE_CHECKING, Final

from emu.cpu import FS, GS
from emu.machine import EFER_BOOT
from emu.paging import EFER as EFER_BITS
from emu.units import is_canonical

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

TSC: Final = 0x10
EFER: Final = 0xC000_0080
FS_BASE: Final = 0xC000_0100
GS_BASE: Final = 0xC000_0101
KERNEL_GS_BASE: Final = 0xC000_0102
TSC_AUX: Final = 0xC000_0103
_MCG_STATUS: Final = 0x17A
_BASES: Final = frozenset({FS_BASE, GS_BASE, KERNEL_GS_BASE})
_LONG_MODE: Final = EFER_BITS.mask("LME", "LMA")

_CONSTANT: Final = {
    0x17: 0,  # IA32_PLATFORM_ID
    0x1B: 0xFEE0_0900,  # IA32_APIC_BASE: enabled, bootstrap processor
    0x3A: 1,  # IA32_FEATURE_CONTROL: locked
    0x8B: 0,  # IA32_BIOS_SIGN_ID: no microcode
    0xCE: 0,  # MSR_PLATFORM_INFO
    0x140: 0,  # MSR_MISC_FEATURES_ENABLES
    0x179: 0x0100_0C02,  # IA32_MCG_CAP: two banks, recovery, status of thresholds, CMCI
    0x17B: 0,  # IA32_MCG_CTL
    0x198: 0,  # IA32_PERF_STATUS
    0x199: 0,  # IA32_PERF_CTL
    0x19C: 0,  # IA32_THERM_STATUS
    0x1A0: 0x0080_1801,  # IA32_MISC_ENABLE: fast strings; no BTS, no PEBS, no xTPR messages
    0x277: 0x0005_0100_0704_06,  # IA32_PAT as Xen sets it
    0x345: 0,  # IA32_PERF_CAPABILITIES
    # Performance counters, which read 0 and swallow writes while there is no virtual PMU.
    **dict.fromkeys((*range(0xC1, 0xC9), *range(0x186, 0x18A)), 0),
    **dict.fromkeys((*range(0x309, 0x30C), *range(0x38D, 0x391)), 0),
    0x4000_0000: 0,  # Xen's hypercall page, which cannot be read back
    EFER: EFER_BOOT,
    # The two banks' CTL, STATUS, ADDR, MISC.
    **{0x400 + n: 0 if n % 4 else (1 << 64) - 1 for n in range(8)},
    **dict.fromkeys(range(0x408, 0x480), 0),  # and those that there are not
}  # fmt: skip
_WRITE_IGNORED: Final = frozenset(
    (
        *range(0x408, 0x480),
        *(0xE7, 0xE8, 0x179, 0x17B, 0x199, 0x19A, 0x1A0, 0x1B0, 0x400, 0x404),
        *range(0xC1, 0xC9),
        *range(0x186, 0x18A),
        *range(0x309, 0x30C),
        *range(0x38D, 0x391),
    )
)
"""Xen takes a write to these and does nothing."""
_ONLY_ZERO: Final = frozenset((0x8B, 0x401, 0x402, 0x403, 0x405, 0x406, 0x407))
"""To these only 0 may be written, and does nothing."""


def read_msr(hv: "Hypervisor", number: int) -> int | None:
    """The register's value, or None for #GP."""
    cpu = hv.machine.cpu
    if hv.current.width == 32:
        if number in _BASES:
            return None
        if number == EFER:
            return EFER_BOOT & ~_LONG_MODE
    if number == FS_BASE:
        return cpu.segment_base(FS)
    if number == GS_BASE:
        return cpu.segment_base(GS)
    if number == KERNEL_GS_BASE:
        return cpu.kernel_gs_base
    if number == TSC:
        return hv.machine.on_tsc()
    if number == TSC_AUX:
        return hv.current.tsc_aux
    if number == _MCG_STATUS:
        return hv.current.machine_check_status
    return _CONSTANT.get(number)


def write_msr(hv: "Hypervisor", number: int, value: int) -> bool:
    """True if the write is accepted; False for #GP."""
    cpu = hv.machine.cpu
    if number in _BASES:
        if hv.current.width == 32 or not is_canonical(value):
            return False
        if number == KERNEL_GS_BASE:
            cpu.kernel_gs_base = value
        else:
            cpu.set_segment_base(FS if number == FS_BASE else GS, value)
        return True
    if number == TSC_AUX and not value >> 32:
        hv.current.tsc_aux = value
        return True
    if number == _MCG_STATUS:
        hv.current.machine_check_status = value
        return True
    if number in _ONLY_ZERO:
        return value == 0
    # EFER may be written as it is; anything else is not the guest's to set.
    return number in _WRITE_IGNORED or (number == EFER and read_msr(hv, number) == value)
