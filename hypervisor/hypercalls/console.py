"""``console_io``: the emergency console, which is all the console that a small guest needs.

Source: xen.h (CONSOLEIO_*).
"""

from typing import TYPE_CHECKING, Final

from emu.units import PAGE_MASK, PAGE_SIZE
from hypervisor.abi import ConsoleIo, Errno, Hypercall
from hypervisor.domain import Domain
from hypervisor.errors import Preempted
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

MAX_COUNT: Final = (1 << 31) - 1
_CHUNK: Final = PAGE_SIZE
_CHUNKS_PER_CALL: Final = 256
_WORK_PER_CHUNK: Final = 16


@hypercall(Hypercall.console_io, 3)
def console_io(hv: "Hypervisor", domain: Domain, command: int, count: int, buffer: int) -> int:
    """Write ``count`` bytes, or read up to ``count``: 0, or the number of bytes read."""
    command &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    if command == ConsoleIo.write:
        chunks = 0
        while count:
            if chunks == _CHUNKS_PER_CALL:
                hv.spend(chunks * _WORK_PER_CHUNK)
                raise Preempted(command, count, buffer)
            chunks += 1
            part = min(count, _CHUNK - (buffer & PAGE_MASK))
            domain.console.write(hv.guest.read(domain, buffer, part))
            buffer = (buffer + part) & ((1 << 64) - 1)
            count -= part
        return 0
    if command == ConsoleIo.read:
        if count > MAX_COUNT:
            return -int(Errno.E2BIG)  # the result could be taken for an errno
        room = min(count, domain.console.waiting)
        if room:
            # Looked at before anything is taken: input that cannot be delivered is not lost.
            hv.guest.write(domain, buffer, hv.guest.read(domain, buffer, room))
            hv.guest.write(domain, buffer, domain.console.read(room))
        return room
    return -int(Errno.ENOSYS)
