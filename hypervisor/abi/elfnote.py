"""ELF notes by which a kernel describes itself to Xen.

Source: xen/elfnote.h.
"""

from enum import IntEnum
from typing import Final

NOTE_NAME: Final = b"Xen"
"""Owner name of the notes (without the NUL that ends it in the file)."""


class ElfNote(IntEnum):
    """Note types under the name ``Xen`` (``XEN_ELFNOTE_*``)."""

    INFO = 0
    ENTRY = 1
    HYPERCALL_PAGE = 2
    VIRT_BASE = 3
    PADDR_OFFSET = 4
    XEN_VERSION = 5
    GUEST_OS = 6
    GUEST_VERSION = 7
    LOADER = 8
    PAE_MODE = 9
    FEATURES = 10
    BSD_SYMTAB = 11
    HV_START_LOW = 12
    L1_MFN_VALID = 13
    SUSPEND_CANCEL = 14
    INIT_P2M = 15
    MOD_START_PFN = 16
    SUPPORTED_FEATURES = 17
    PHYS32_ENTRY = 18
