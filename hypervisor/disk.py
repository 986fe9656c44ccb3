"""A raw disk image on the host: what a PV disk reads and, if it may, writes.

Three ways to open one. ``COPY`` (the default): what the guest writes is kept in memory and lost at
the end, and each domain has its own. ``READ_ONLY``: the guest may not write. ``WRITABLE``: the
guest's writes go into the file. Only the last ever changes a file of the host.

How it fails: ``DiskError`` with one line when it is opened. Later on, a file that shrank or cannot
be read gives ``DiskError`` for that access only, which the guest gets as an I/O error.
"""

import os
import stat
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final

from emu.errors import CowbirdError

SECTOR: Final = 512
BLOCK: Final = 4096
"""Bytes that are kept together of what a guest wrote."""
MAX_COPY_BYTES: Final = 1 << 30
"""Most bytes of written blocks that are kept in memory for one machine's disks."""


class DiskError(CowbirdError):
    """A disk image cannot be used, or not for this access."""


class Mode(Enum):
    """What happens to writes."""

    COPY = "cow"
    READ_ONLY = "ro"
    WRITABLE = "rw"


class CopyBudget:
    """How much of what guests wrote may be kept in memory; shared by the disks of a machine."""

    def __init__(self) -> None:
        self.kept = 0

    def take(self) -> bool:
        """Room for one more block; False if there is none."""
        if self.kept + BLOCK > MAX_COPY_BYTES:
            return False
        self.kept += BLOCK
        return True


class DiskImage:
    """One domain's view of an image file; closes the file when used in ``with``, or by ``close``.

    Raises:
        DiskError: it cannot be opened so, is no regular file, or is no whole number of sectors.
    """

    def __init__(self, path: str, mode: Mode = Mode.COPY) -> None:
        self.path = path
        self.mode = mode
        self._written: dict[int, bytearray] = {}
        self._unflushed = False
        self.budget = CopyBudget()
        flags = os.O_RDWR if mode is Mode.WRITABLE else os.O_RDONLY
        try:
            # Not to wait for a pipe's other end.
            self._file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            how = " for writing" if mode is Mode.WRITABLE and Path(path).exists() else ""
            reason = getattr(error, "strerror", None) or str(error)
            raise DiskError(f"disk {path}: cannot be opened{how}: {reason}") from error
        found = os.fstat(self._file)
        problem = ""
        if not stat.S_ISREG(found.st_mode):
            problem = "not a regular file"
        elif found.st_size < SECTOR:
            problem = f"only {found.st_size} bytes, less than one sector of {SECTOR}"
        elif found.st_size % SECTOR:
            problem = f"{found.st_size} bytes are no whole number of sectors of {SECTOR}"
        if problem:
            self.close()
            raise DiskError(f"disk {path}: {problem}")
        self.sectors = found.st_size // SECTOR
        self.identity = (found.st_dev, found.st_ino)
        """Which file of the host it is, by whatever name; for comparing, never shown."""

    @classmethod
    def parse(cls, text: str) -> "tuple[str, Mode]":
        """Path and mode from ``FILE[:ro|:rw]``."""
        path, colon, mode = text.rpartition(":")
        if colon and path and mode in (Mode.READ_ONLY.value, Mode.WRITABLE.value):
            return path, Mode(mode)
        return text, Mode.COPY

    def __enter__(self) -> "DiskImage":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.budget.kept -= self.kept
            self._written.clear()

    @property
    def kept(self) -> int:
        """Bytes of written blocks that are in memory."""
        return len(self._written) * BLOCK

    def is_pristine(self, block: int) -> bool:
        """True if a block of ``BLOCK`` bytes is the file's own, which this run does not change."""
        return self.mode is not Mode.WRITABLE and block not in self._written

    def _check(self, at: int, length: int) -> None:
        if at < 0 or length < 0 or at + length > self.sectors * SECTOR:
            raise DiskError(f"disk {self.path}: {length} bytes at {at} lie beyond its end")

    def _from_file(self, at: int, length: int) -> bytes:
        try:
            data = os.pread(self._file, length, at)
        except OSError as error:
            raise DiskError(f"disk {self.path}: {error.strerror}") from error
        if len(data) != length:
            raise DiskError(f"disk {self.path}: the file is shorter than it was")
        return data

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes from byte ``at`` on.

        Raises:
            DiskError: beyond the end, or the host cannot read it.
        """
        self._check(at, length)
        if not self._written:
            return self._from_file(at, length)
        parts = []
        end = at + length
        while at < end:
            block, offset = divmod(at, BLOCK)
            part = min(BLOCK - offset, end - at)
            kept = self._written.get(block)
            if kept is None:
                parts.append(self._from_file(at, part))
            else:
                parts.append(bytes(kept[offset : offset + part]))
            at += part
        return b"".join(parts)

    def write(self, at: int, data: bytes) -> None:
        """Store ``data`` from byte ``at`` on.

        Raises:
            DiskError: read-only, beyond the end, no room left, or the host cannot write it.
        """
        self._check(at, len(data))
        if self.mode is Mode.READ_ONLY:
            raise DiskError(f"disk {self.path}: read-only")
        if self.mode is Mode.WRITABLE:
            try:
                written = os.pwrite(self._file, data, at)
            except OSError as error:
                raise DiskError(f"disk {self.path}: {error.strerror}") from error
            self._unflushed = True
            if written != len(data):
                raise DiskError(f"disk {self.path}: the host's disk is full")
            return
        done = 0
        while done < len(data):
            block, offset = divmod(at + done, BLOCK)
            part = min(BLOCK - offset, len(data) - done)
            kept = self._block(block)
            kept[offset : offset + part] = data[done : done + part]
            done += part

    def _block(self, block: int) -> bytearray:
        """A block in memory, to be written to."""
        kept = self._written.get(block)
        if kept is None:
            start = block * BLOCK
            have = min(BLOCK, self.sectors * SECTOR - start)
            kept = bytearray(self._from_file(start, have).ljust(BLOCK, b"\0"))
            if not self.budget.take():
                raise DiskError(f"disk {self.path}: {MAX_COPY_BYTES >> 20} MiB are written already")
            self._written[block] = kept
        return kept

    def flush(self) -> None:
        """What was written is in the file, if it goes there at all.

        The host's disk is asked only if something was written since: a guest that flushes all the
        time would otherwise make everybody wait for it.

        Raises:
            DiskError: the host cannot.
        """
        if self._unflushed:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise DiskError(f"disk {self.path}: {error.strerror}") from error
            self._unflushed = False
