"""The one error tree. Every error a user can meet is a ``CowbirdError`` with one clear line.

Guest mistakes are not in this tree: they surface in the guest, as an errno or a fault.
"""


class CowbirdError(Exception):
    """Root of all that this project raises on purpose; ``str()`` is one line for a person."""


class MachineError(CowbirdError):
    """The emulated computer cannot be built or cannot go on (sizes, memory, engine state)."""


class UnsupportedEngineError(MachineError):
    """This build of Unicorn is not one whose CPU state can be located."""


class AssemblyError(CowbirdError):
    """A source does not assemble; the text is ``file:line: message``."""


class ImageError(CowbirdError):
    """A file is not a guest image that can be booted; names the file and what is wrong."""
