"""Numbers of the interfaces to devices: interrupts, grant tables, XenStore.

The rest, the rules of naming and the families' prefixes are in ``numbers``.

Source: xen/physdev.h, xen/grant_table.h, xen/io/xs_wire.h.
"""

from enum import IntEnum, IntFlag


class PhysdevOp(IntEnum):
    """Commands of physdev_op (xen/physdev.h)."""

    IRQ_UNMASK_NOTIFY = 4
    irq_status_query = 5
    set_iopl = 6
    set_iobitmap = 7
    apic_read = 8
    apic_write = 9
    alloc_irq_vector = 10
    free_irq_vector = 11
    eoi = 12
    map_pirq = 13
    unmap_pirq = 14
    manage_pci_add = 15
    manage_pci_remove = 16
    pirq_eoi_gmfn_v1 = 17
    restore_msi = 19
    manage_pci_add_ext = 20
    setup_gsi = 21
    get_free_pirq = 23
    pci_mmcfg_reserved = 24
    pci_device_add = 25
    pci_device_remove = 26
    restore_msi_ext = 27
    pirq_eoi_gmfn_v2 = 28
    dbgp_op = 29
    prepare_msix = 30
    release_msix = 31


class GnttabOp(IntEnum):
    """Commands of grant_table_op (xen/grant_table.h)."""

    map_grant_ref = 0
    unmap_grant_ref = 1
    setup_table = 2
    dump_table = 3
    transfer = 4
    copy = 5
    query_size = 6
    unmap_and_replace = 7
    set_version = 8
    get_status_frames = 9
    get_version = 10
    swap_grant_ref = 11
    cache_flush = 12


class GntSt(IntEnum):
    """``status`` of grant operations: 0 or negative, a scale of its own (xen/grant_table.h)."""

    okay = 0
    general_error = -1
    bad_domain = -2
    bad_gntref = -3
    bad_handle = -4
    bad_virt_addr = -5
    bad_dev_addr = -6
    no_device_space = -7
    permission_denied = -8
    bad_page = -9
    bad_copy_arg = -10
    address_too_big = -11
    eagain = -12
    no_space = -13


class Gtf(IntFlag):
    """``grant_entry_v1.flags``: type in bits 1..0, then what it allows (xen/grant_table.h)."""

    invalid = 0
    permit_access = 1
    accept_transfer = 2
    transitive = 3
    type_mask = 3
    readonly = 1 << 2
    reading = 1 << 3
    writing = 1 << 4
    PWT = 1 << 5
    PCD = 1 << 6
    PAT = 1 << 7
    sub_page = 1 << 8
    transfer_committed = 1 << 2
    transfer_completed = 1 << 3


class GntMap(IntFlag):
    """``gnttab_map_grant_ref.flags`` (xen/grant_table.h)."""

    device_map = 1 << 0
    host_map = 1 << 1
    readonly = 1 << 2
    application_map = 1 << 3
    contains_pte = 1 << 4


class GntCopy(IntFlag):
    """``gnttab_copy.flags`` (xen/grant_table.h)."""

    source_gref = 1
    dest_gref = 2


class XenStore(IntEnum):
    """``xsd_sockmsg.type`` of XenStore's protocol (xen/io/xs_wire.h)."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    INVALID = 0xFFFF
