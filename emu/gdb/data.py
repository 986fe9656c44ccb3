"""Packets about registers and memory: ``g G p P m M X``, and the checksum of memory.

Memory is read through the target without side effects. A range that is longer than a reply, or
that runs into something unreadable, is answered as far as it goes, which the protocol allows.
"""

from typing import Final

from emu.gdb import registers
from emu.gdb.args import EFAULT, PacketError, hex_bytes, number, two_numbers
from emu.gdb.registry import packet
from emu.gdb.session import Session

_CRC_POLYNOMIAL: Final = 0x04C1_1DB7
_MAX_CRC: Final = 16 << 20


@packet("g")
def read_registers(session: Session, _rest: bytes) -> bytes:
    """All registers of the selected thread."""
    thread = session.selected()
    return registers.encode(session.layout(thread), session.target.registers(thread))


@packet("G")
def write_registers(session: Session, rest: bytes) -> bytes:
    """Write all registers; those that do not change are left alone."""
    thread = session.selected()
    try:
        wanted = registers.decode(session.layout(thread), hex_bytes(rest))
    except ValueError as error:
        raise PacketError(str(error)) from error
    before = session.target.registers(thread)
    for register, value in wanted:
        old = before.get(register.source)
        if old is not None and value != old & ((1 << register.bits) - 1):
            session.target.set_register(thread, register.source, value)
    return b"OK"


def _numbered(session: Session, text: bytes) -> registers.Register | None:
    """The register of that number; None if it may be one that only the client knows of.

    Raises:
        PacketError: there is none of that number.
    """
    thread = session.selected()
    every = session.layout(thread)
    index = number(text, "register")
    if index < len(every):
        return every[index]
    if thread.process in session.widths:
        raise PacketError(f"there is no register number {index:#x}")
    return None


@packet("p")
def read_register(session: Session, rest: bytes) -> bytes:
    """One register by number."""
    register = _numbered(session, rest)
    if register is None:
        return b"xxxxxxxx"
    return register.encode(session.target.registers(session.selected()))


@packet("P")
def write_register(session: Session, rest: bytes) -> bytes:
    """Write one register by number."""
    text, equals, digits = rest.partition(b"=")
    register = _numbered(session, text)
    raw = hex_bytes(digits)
    if register is None:
        raise PacketError("that register cannot be set")
    if not equals or len(raw) != register.size:
        raise PacketError(f"{len(raw)} bytes for register {register.name} of {register.size}")
    value = int.from_bytes(raw, "little")
    session.target.set_register(session.selected(), register.source, value)
    return b"OK"


@packet("m")
def read_memory(session: Session, rest: bytes) -> bytes:
    """Memory as hex digits."""
    address, length = two_numbers(rest)
    return session.read(address, length).hex().encode("ascii")


@packet("M")
def write_memory(session: Session, rest: bytes) -> bytes:
    """Write memory given as hex digits."""
    where, colon, digits = rest.partition(b":")
    address, length = two_numbers(where)
    data = hex_bytes(digits)
    if not colon or len(data) != length:
        raise PacketError(f"{len(data)} bytes where {length} were announced")
    session.write(address, data)
    return b"OK"


@packet("X")
def write_binary(session: Session, rest: bytes) -> bytes:
    """Write memory given as bytes; of no length, to find out whether this packet is known."""
    where, colon, data = rest.partition(b":")
    address, length = two_numbers(where)
    if not colon or len(data) != length:
        raise PacketError(f"{len(data)} bytes where {length} were announced")
    session.write(address, data)
    return b"OK"


@packet("qCRC")
def checksum(session: Session, rest: bytes) -> bytes:
    """Checksum of memory, for ``compare-sections``."""
    address, length = two_numbers(rest.removeprefix(b":"))
    if length > _MAX_CRC:
        raise PacketError(f"a checksum of {length} bytes")
    crc = 0xFFFF_FFFF
    while length:
        data = session.read(address, length)
        for byte in data:
            crc = (crc << 8 & 0xFFFF_FFFF) ^ _CRC_TABLE[crc >> 24 ^ byte]
        address, length = address + len(data), length - len(data)
        if length and address >> 64:
            raise PacketError("the range leaves the address space", EFAULT)
    return b"C%x" % crc


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (_CRC_POLYNOMIAL if crc >> 31 else 0)) & 0xFFFF_FFFF
        table.append(crc)
    return table


_CRC_TABLE: Final = _table()
