"""Where the server listens: ``tcp:HOST:PORT``, ``unix:PATH``, ``:PORT`` or ``PORT``.

Who can connect can read and change everything, so only this computer may: a loopback address, or
a Unix socket that only its owner can open. Anything else is refused; from another computer, use a
tunnel (``ssh -L 1234:localhost:1234``).

Fails with ``AddressError``, which says what is wrong.
"""

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emu.errors import CowbirdError

DEFAULT_PORT: Final = 1234
_LOCALHOST: Final = "127.0.0.1"


class AddressError(CowbirdError):
    """An address that cannot be listened at."""


@dataclass(frozen=True, slots=True)
class Address:
    """``path`` of a Unix socket, or ``host`` (a loopback address) and ``port`` (0: any)."""

    host: str = _LOCALHOST
    port: int = DEFAULT_PORT
    path: str = ""

    def __str__(self) -> str:
        """As gdb's ``target remote`` takes it."""
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that a person wrote, as QEMU's ``-gdb`` takes it.

    Raises:
        AddressError: it is none, or is reachable from other computers.
    """
    kind, colon, rest = text.partition(":")
    if kind == "unix" and colon:
        # QEMU's own options behind a comma would be part of the path.
        path = rest.partition(",")[0]
        if not path:
            raise AddressError(f"{text!r}: unix: needs a path")
        return Address(path=path)
    if kind == "tcp" and colon:
        text = rest
    host, colon, port = text.partition(",")[0].rpartition(":")
    if not colon:
        host = ""
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise AddressError(f"{text!r} is neither tcp:HOST:PORT nor unix:PATH")
    return Address(_loopback(host.removeprefix("[").removesuffix("]")), int(port))


def _loopback(host: str) -> str:
    if host in ("", "localhost"):
        return _LOCALHOST
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise AddressError(f"host {host!r} is not localhost nor a loopback address") from None
    if not address.is_loopback:
        raise AddressError(
            f"{host} can be reached from other computers; use localhost and a tunnel"
        )
    return str(address)


def listen(address: Address) -> tuple[socket.socket, Address]:
    """A listening socket, and the address with the port that was chosen.

    Raises:
        AddressError: it is in use, or cannot be had.
    """
    try:
        if address.path:
            return _listen_unix(address)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener, Address(address.host, listener.getsockname()[1])
    except OSError as error:
        raise AddressError(f"gdb at {address}: {error.strerror or error}") from error


def _listen_unix(address: Address) -> tuple[socket.socket, Address]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        before = os.umask(0o177)
        try:
            listener.bind(address.path)
        finally:
            os.umask(before)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener, address


def _remove_stale(path: str) -> None:
    """Take away a socket that nobody listens at any more; anything else at the path stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)


def forget(address: Address) -> None:
    """Remove what ``listen`` left in the file system."""
    if address.path:
        Path(address.path).unlink(missing_ok=True)
