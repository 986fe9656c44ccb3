"""The computer: one CPU over one machine memory, usable without any hypervisor.

``emu`` knows nothing of Xen or of domains. ``hypervisor`` sits on what this package
exports and never imports Unicorn itself.
"""

from emu.machine import Ending, Machine
from emu.trap import Trap, TrapKind

__all__ = ["Ending", "Machine", "Trap", "TrapKind"]
