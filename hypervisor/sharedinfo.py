"""Where things are in ``shared_info``: one page, laid out for the width of the guest that has it.

Bits of ports are counted as bytes: bit n of a little-endian array of words is bit n % 8 of byte
n / 8, whatever the words' width. Only how many ports share one bit of the selector differs.

Source: xen.h (shared_info, vcpu_info, arch_shared_info), through ``hypervisor.abi``.
"""

from typing import Final, NamedTuple

from hypervisor.abi import (
    EVTCHN_2L_NR_CHANNELS,
    EVTCHN_2L_NR_CHANNELS_PAE,
    ArchSharedInfo,
    SharedInfo,
    VcpuInfo,
    Width,
    field_size,
    layout,
    offset_of,
)


class SharedLayout(NamedTuple):
    """Offsets in bytes from the start of the page; vCPU 0's where a vCPU's."""

    pending: int
    mask: int
    selector: int
    group_shift: int
    """A port's number shifted right by this is the number of its selector bit."""
    channels: int
    """Ports that a domain can have."""
    cr2: int
    wall: int
    """wc_version, wc_sec, wc_nsec."""
    max_pfn: int
    word: int
    """Bytes of an ``unsigned long``."""


def _layout(width: Width) -> SharedLayout:
    shared, vcpu = layout(SharedInfo, width), layout(VcpuInfo, width)
    arch = offset_of(shared, "arch")
    return SharedLayout(
        pending=offset_of(shared, "evtchn_pending"),
        mask=offset_of(shared, "evtchn_mask"),
        selector=offset_of(vcpu, "evtchn_pending_sel"),
        group_shift=field_size(vcpu, "evtchn_pending_sel").bit_length() + 2,
        channels=EVTCHN_2L_NR_CHANNELS if width == 64 else EVTCHN_2L_NR_CHANNELS_PAE,
        cr2=offset_of(vcpu, "arch"),
        wall=offset_of(shared, "wc_version"),
        max_pfn=arch + offset_of(layout(ArchSharedInfo, width), "max_pfn"),
        word=width // 8,
    )


SHARED: Final[dict[Width, SharedLayout]] = {64: _layout(64), 32: _layout(32)}
UPCALL_PENDING: Final = offset_of(VcpuInfo, "evtchn_upcall_pending")
UPCALL_MASK: Final = offset_of(VcpuInfo, "evtchn_upcall_mask")
TIME: Final = offset_of(VcpuInfo, "time")
"""The same at both widths."""

if offset_of(layout(VcpuInfo, 32), "time") != TIME:
    raise TypeError("vcpu_time_info is not at the same place in both widths")
