"""``xen_version``: who the hypervisor is and what it can do.

It presents itself as Xen 4.17, whose behaviour it follows; ``extraversion`` says that it is not.

Source: version.h, features.h.
"""

from typing import TYPE_CHECKING, Final

from hypervisor.abi import (
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START_PAE,
    XEN_CAPABILITIES_INFO_LEN,
    XEN_CHANGESET_INFO_LEN,
    XEN_COMMANDLINE_LEN,
    XEN_EXTRAVERSION_LEN,
    XENFEAT_NR_SUBMAPS,
    CompileInfo,
    Errno,
    FeatureInfo,
    Hypercall,
    PlatformParameters,
    VmAssist,
    XenFeat,
    XenVer,
    layout,
    to_bytes,
)
from hypervisor.domain import Domain
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

VERSION: Final = (4, 17)
EXTRAVERSION: Final = b".0-cowbird"
CAPABILITIES: Final = b"xen-3.0-x86_64 xen-3.0-x86_32p "
FEATURES: Final = frozenset(
    {
        XenFeat.mmu_pt_update_preserve_ad,
        XenFeat.pae_pgdir_above_4gb,
        XenFeat.highmem_assist,
        XenFeat.gnttab_map_avail_bits,
        XenFeat.memory_op_vnode_supported,
        XenFeat.not_direct_mapped,
    }
)
"""What Xen offers to a PV domain."""
_DENIED: Final = b"<denied>\0"
_EINVAL: Final = -int(Errno.EINVAL)


@hypercall(Hypercall.xen_version, 2)
def xen_version(hv: "Hypervisor", domain: Domain, command: int, argument: int) -> int:
    """Answer one XENVER_* question, in the result or in a structure at ``argument``."""
    command &= 0xFFFF_FFFF
    if command == XenVer.version:
        return VERSION[0] << 16 | VERSION[1]
    if command == XenVer.pagesize:
        return 0x1000 if not argument else _EINVAL
    if command == XenVer.get_features:
        info = hv.guest.record(domain, FeatureInfo, argument)
        if info.submap_idx >= XENFEAT_NR_SUBMAPS:
            return _EINVAL
        offered = FEATURES
        if domain.width == 32 and not domain.vm_assist & 1 << VmAssist.pae_extended_cr3:
            offered -= {XenFeat.pae_pgdir_above_4gb}
        info.submap = sum(1 << feature for feature in offered)
        hv.guest.write(domain, argument, to_bytes(info))
        return 0
    if command == XenVer.platform_parameters:
        start = layout(PlatformParameters, domain.width)()
        pae = domain.width == 32
        start.virt_start = HYPERVISOR_VIRT_START_PAE if pae else HYPERVISOR_VIRT_START
        hv.guest.write(domain, argument, to_bytes(start))
        return 0
    if command == XenVer.guest_handle:
        # The domain's UUID: its number, as good a name as any and the same in every run.
        hv.guest.write(domain, argument, domain.id.to_bytes(16, "big"))
        return 0
    if command == XenVer.build_id:
        return -int(Errno.ENODATA if domain.privileged else Errno.EPERM)
    text = _TEXTS.get(command)
    if text is None:
        return -int(Errno.ENOSYS)
    if command == XenVer.commandline and not domain.privileged:
        text = _DENIED
    hv.guest.write(domain, argument, text)
    return 0


def _compile_info() -> bytes:
    info = CompileInfo()
    for field, text in (
        (info.compiler, b"cowbird"),
        (info.compile_by, b"cowbird"),
        (info.compile_domain, b"cowbird"),
        (info.compile_date, b"Sat Jan  1 00:00:00 UTC 2005"),
    ):
        field[: len(text)] = list(text)
    return to_bytes(info)


_TEXTS: Final[dict[int, bytes]] = {
    XenVer.extraversion: EXTRAVERSION.ljust(XEN_EXTRAVERSION_LEN, b"\0"),
    XenVer.compile_info: _compile_info(),
    XenVer.capabilities: CAPABILITIES.ljust(XEN_CAPABILITIES_INFO_LEN, b"\0"),
    XenVer.changeset: b"unavailable".ljust(XEN_CHANGESET_INFO_LEN, b"\0"),
    XenVer.commandline: bytes(XEN_COMMANDLINE_LEN),
}
