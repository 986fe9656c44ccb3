"""The fixed places and sizes of the ABI: reserved addresses, flat selectors, array bounds.

Addresses are linear addresses in bytes; slots are indices into the top-level table.

Source: xen/arch-x86/xen.h, xen/arch-x86/xen-x86_64.h, xen/arch-x86/xen-x86_32.h, xen/xen.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from emu.units import VA

HYPERVISOR_VIRT_START: Final = VA(0xFFFF_8000_0000_0000)
"""64-bit: first address of the range that the hypervisor keeps to itself."""
HYPERVISOR_VIRT_END: Final = VA(0xFFFF_8800_0000_0000)
"""64-bit: first address after that range."""
MACH2PHYS_VIRT_START: Final = VA(0xFFFF_8000_0000_0000)
"""64-bit: the M2P table, one 8-byte entry per MFN, read-only in every guest."""
MACH2PHYS_VIRT_END: Final = VA(0xFFFF_8040_0000_0000)
MACH2PHYS_NR_ENTRIES: Final = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3

L4_FIRST_XEN_SLOT: Final = (HYPERVISOR_VIRT_START >> 39) & 511
"""256: first L4 slot that the hypervisor fills at validation and no guest may write."""
L4_LAST_XEN_SLOT: Final = ((HYPERVISOR_VIRT_END - 1) >> 39) & 511
"""271: the last such slot."""
L4_M2P_SLOT: Final = (MACH2PHYS_VIRT_START >> 39) & 511

HYPERVISOR_VIRT_START_PAE: Final = VA(0xF580_0000)
"""32-bit PAE: first address of the hypervisor's range, which ends at 4 GiB."""
MACH2PHYS_VIRT_START_PAE: Final = VA(0xF580_0000)
"""32-bit PAE: the M2P table, one 4-byte entry per MFN."""
MACH2PHYS_VIRT_END_PAE: Final = VA(0xF680_0000)
MACH2PHYS_NR_ENTRIES_PAE: Final = (MACH2PHYS_VIRT_END_PAE - MACH2PHYS_VIRT_START_PAE) >> 2
L2_FIRST_XEN_SLOT_PAE: Final = (HYPERVISOR_VIRT_START_PAE >> 21) & 511
"""428: in the L2 table of L3 slot 3, the first slot that the hypervisor fills; all to the end."""
L3_ENTRIES_PAE: Final = 4
"""Entries of a 32-bit guest's L3 table; what its page holds beyond them does not count."""
L3_XEN_SLOT_PAE: Final = 3
"""The L3 slot whose L2 table holds the hypervisor's slots: always present, never changed."""
MAX_L3_MFN_PAE: Final = 1 << 20
"""First frame (of 4 GiB) that cannot be the L3 table of a guest without extended CR3."""

FIRST_RESERVED_GDT_PAGE: Final = 14
"""GDT pages 0..13 are the guest's, 14 and 15 the hypervisor's."""
FIRST_RESERVED_GDT_BYTE: Final = 0xE000
FIRST_RESERVED_GDT_ENTRY: Final = 0x1C00

XEN_LEGACY_MAX_VCPUS: Final = 32
"""vCPUs that have their ``vcpu_info`` in ``shared_info``."""
MAX_GUEST_CMDLINE: Final = 1024
"""Bytes of ``start_info.cmd_line``, NUL included."""
NR_VIRQS: Final = 24
EVTCHN_2L_NR_CHANNELS: Final = 4096
"""64-bit event channels (a ``long`` of selector bits times the bits in a ``long``)."""
EVTCHN_2L_NR_CHANNELS_PAE: Final = 1024

XEN_EXTRAVERSION_LEN: Final = 16
XEN_CAPABILITIES_INFO_LEN: Final = 1024
XEN_CHANGESET_INFO_LEN: Final = 64
XEN_COMMANDLINE_LEN: Final = 1024
XENFEAT_NR_SUBMAPS: Final = 1

XEN_RUNSTATE_UPDATE: Final = 1 << 63
"""Set in ``vcpu_runstate_info.state_entry_time`` while an update is under way."""

GNTTAB_NR_RESERVED_ENTRIES: Final = 8
GNTTAB_RESERVED_CONSOLE: Final = 0
GNTTAB_RESERVED_XENSTORE: Final = 1

XENSTORE_RING_SIZE: Final = 1024
XENSTORE_PAYLOAD_MAX: Final = 4096
XENCONS_IN_SIZE: Final = 1024
XENCONS_OUT_SIZE: Final = 2048

XEN_EMULATE_PREFIX: Final = b"\x0f\x0b\x78\x65\x6e"
"""``ud2; "xen"`` before an instruction asks the hypervisor to emulate it (only ``cpuid``)."""

TI_DPL_MASK: Final = 3
"""``trap_info.flags`` bits 1..0: least privileged ring that may raise the vector by ``int``."""
TI_IF: Final = 4
"""``trap_info.flags`` bit 2: mask events on delivery."""


class Flat64(IntEnum):
    """Flat selectors of a 64-bit guest (``FLAT_*``, xen/arch-x86/xen-x86_64.h)."""

    RING3_CS32 = 0xE023
    RING3_CS64 = 0xE033
    RING3_DS64 = 0x0000
    RING3_DS32 = 0xE02B
    RING3_SS32 = 0xE02B
    RING3_SS64 = 0xE02B
    KERNEL_CS = 0xE033
    KERNEL_DS = 0x0000
    KERNEL_SS = 0xE02B
    KERNEL_CS64 = 0xE033
    KERNEL_DS64 = 0x0000
    KERNEL_SS64 = 0xE02B
    KERNEL_CS32 = 0xE023
    KERNEL_DS32 = 0xE02B
    KERNEL_SS32 = 0xE02B
    USER_CS = 0xE033
    USER_DS = 0x0000
    USER_SS = 0xE02B
    USER_CS64 = 0xE033
    USER_DS64 = 0x0000
    USER_SS64 = 0xE02B
    USER_CS32 = 0xE023
    USER_DS32 = 0xE02B
    USER_SS32 = 0xE02B


class Flat32(IntEnum):
    """Flat selectors of a 32-bit guest (``FLAT_*``, xen/arch-x86/xen-x86_32.h)."""

    RING1_CS = 0xE019
    RING1_DS = 0xE021
    RING1_SS = 0xE021
    RING3_CS = 0xE02B
    RING3_DS = 0xE033
    RING3_SS = 0xE033
    KERNEL_CS = 0xE019
    KERNEL_DS = 0xE021
    KERNEL_SS = 0xE021
    USER_CS = 0xE02B
    USER_DS = 0xE033
    USER_SS = 0xE033


class Pvclock(IntFlag):
    """``vcpu_time_info.flags`` (``XEN_PVCLOCK_*``, xen/xen.h)."""

    TSC_STABLE_BIT = 1
    GUEST_STOPPED = 2


def pae_cr3(mfn: int) -> int:
    """The CR3 value a 32-bit guest sees for an L3 in frame ``mfn`` (``xen_pfn_to_cr3``).

    Frames above 4 GiB keep their upper bits in CR3 bits 11..0.
    """
    return (mfn << 12 | mfn >> 20) & 0xFFFF_FFFF


def mfn_of_pae_cr3(cr3: int) -> int:
    """The frame named by a 32-bit guest's CR3 value (``xen_cr3_to_pfn``)."""
    return (cr3 >> 12 | cr3 << 20) & 0xFFFF_FFFF
