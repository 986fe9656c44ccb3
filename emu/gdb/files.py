"""Remote files (``vFile``): the programs of the processes, and nothing else, to be read.

gdb asks for a process's program with ``qXfer:exec-file`` and then reads it from the target. The
only paths that open are those that ``path_of`` gives out; the host's files are out of reach.

Source: the gdb manual, "Host I/O Packets" and "struct stat" of the File-I/O protocol.
"""

import struct
from typing import TYPE_CHECKING, Final

from emu.gdb.args import PacketError, hex_bytes, number
from emu.gdb.packets import MAX_BODY, escape
from emu.gdb.registry import packet
from emu.gdb.target import Executable

if TYPE_CHECKING:
    from emu.gdb.session import Session

_ENOENT: Final = 2
_EBADF: Final = 9
_EROFS: Final = 30
_EMFILE: Final = 24
_ENOSYS: Final = 9999  # FILEIO_EUNKNOWN
_MAX_OPEN: Final = 16
_ACCESS_MODE: Final = 3
_REGULAR_READ_ONLY: Final = 0o100444
_STAT: Final = struct.Struct(">IIIIIIIQQQIII")
"""dev ino mode nlink uid gid rdev size blksize blocks atime mtime ctime"""
_ROOT: Final = "/cowbird/"


def path_of(process: int, program: Executable) -> str:
    """The path by which the program of a process can be opened."""
    name = program.name.rsplit("/", 1)[-1] or "program"
    return f"{_ROOT}{process}/{name}"


class Files:
    """Open files of one client, by descriptor."""

    def __init__(self) -> None:
        self.open: dict[int, bytes] = {}

    def add(self, data: bytes) -> int | None:
        """A descriptor for these contents; None if too many are open."""
        if len(self.open) >= _MAX_OPEN:
            return None
        descriptor = next(i for i in range(3, 3 + _MAX_OPEN) if i not in self.open)
        self.open[descriptor] = data
        return descriptor


def _failed(errno: int) -> bytes:
    return b"F-1,%x" % errno


def _open(session: "Session", arguments: list[bytes]) -> bytes:
    if len(arguments) != 3:
        raise PacketError("vFile:open takes a path, flags and a mode")
    path = hex_bytes(arguments[0])
    if number(arguments[1], "flags") & _ACCESS_MODE:
        return _failed(_EROFS)
    for item in session.threads():
        program = session.target.executable(item.id.process)
        if program is not None and path_of(item.id.process, program).encode() == path:
            descriptor = session.files.add(program.data)
            return _failed(_EMFILE) if descriptor is None else b"F%x" % descriptor
    return _failed(_ENOENT)


def _pread(session: "Session", arguments: list[bytes]) -> bytes:
    if len(arguments) != 3:
        raise PacketError("vFile:pread takes a descriptor, a count and an offset")
    descriptor, count, offset = (number(text) for text in arguments)
    data = session.files.open.get(descriptor)
    if data is None:
        return _failed(_EBADF)
    part = data[offset : offset + min(count, MAX_BODY // 2 - 32)]
    return b"F%x;" % len(part) + escape(part)


def _fstat(session: "Session", arguments: list[bytes]) -> bytes:
    data = session.files.open.get(number(arguments[0]))
    if data is None:
        return _failed(_EBADF)
    size = len(data)
    raw = _STAT.pack(0, 0, _REGULAR_READ_ONLY, 1, 0, 0, 0, size, 512, -(-size // 512), 0, 0, 0)
    return b"F%x;" % len(raw) + escape(raw)


def _close(session: "Session", arguments: list[bytes]) -> bytes:
    gone = session.files.open.pop(number(arguments[0]), None)
    return _failed(_EBADF) if gone is None else b"F0"


def _setfs(_session: "Session", _arguments: list[bytes]) -> bytes:
    return b"F0"


_CALLS: Final = {
    b"open": _open,
    b"pread": _pread,
    b"fstat": _fstat,
    b"close": _close,
    b"setfs": _setfs,
}


@packet("vFile")
def file_call(session: "Session", rest: bytes) -> bytes:
    """Read a program."""
    name, _, text = rest.removeprefix(b":").partition(b":")
    call = _CALLS.get(name)
    if call is None:
        return b""
    return call(session, text.split(b","))
