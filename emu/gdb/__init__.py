"""gdb's remote protocol: a server for anything that is a ``Target``.

``GdbServer`` listens, a ``Session`` answers one client's packets, ``emu.gdb.target.Target`` is what
it asks. ``emu.gdb.bare`` makes a target of a bare ``Machine``, so that gdb can debug that alone::

    GdbServer(BareTarget(machine), parse_address("tcp:localhost:1234")).serve()

It knows processes and threads, and nothing of domains.
"""

from emu.gdb import data, qemu, queries, running
from emu.gdb.address import Address, AddressError, parse_address
from emu.gdb.server import GdbServer
from emu.gdb.session import Ending, Session
from emu.gdb.target import (
    Cause,
    Resume,
    StopKind,
    StopReport,
    Target,
    TargetError,
    Thread,
    ThreadId,
)

__all__ = [
    "Address",
    "AddressError",
    "Cause",
    "Ending",
    "GdbServer",
    "Resume",
    "Session",
    "StopKind",
    "StopReport",
    "Target",
    "TargetError",
    "Thread",
    "ThreadId",
    "data",
    "parse_address",
    "qemu",
    "queries",
    "running",
]
