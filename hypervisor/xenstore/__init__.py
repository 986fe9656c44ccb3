"""XenStore: the machine's small tree of names and values, by which guests find their devices."""

from hypervisor.xenstore.server import XenStore
from hypervisor.xenstore.tree import Perm, StoreError

__all__ = ["Perm", "StoreError", "XenStore"]
