"""XenStore: the machine's small tree of names and values, by which guests find their devices."""

from hypervisor.xenstore.node import READ, WRITE, Perm, StoreError
from hypervisor.xenstore.server import XenStore

__all__ = ["READ", "WRITE", "Perm", "StoreError", "XenStore"]
