"""Disk images under time travel: what was read from a file is read again, also elsewhere.

A recorded disk reads blocks of its source once and keeps them, never closes it (a domain that ended
may live again in the past), and can be made from a recording without any file. A disk that writes
into its file cannot be taken back, and so is refused.
"""

from collections.abc import Mapping

from hypervisor.debug.model import DebugError
from hypervisor.disk import BLOCK, SECTOR, CopyBudget, DiskError, DiskImage, Mode


class Blocks:
    """The contents of an image file as far as they were read; ``file`` is where to read more."""

    def __init__(self, file: DiskImage | None, blocks: Mapping[int, bytes] | None = None) -> None:
        self._file = file
        self.kept: dict[int, bytes] = dict(blocks or {})

    def block(self, number: int, sectors: int) -> bytes:
        """A block, the last one perhaps shorter.

        Raises:
            DiskError: it cannot be read, or was never read when this was recorded.
        """
        kept = self.kept.get(number)
        if kept is None:
            if self._file is None:
                raise DiskError(f"block {number} is not in the recording")
            start = number * BLOCK
            kept = self._file.read(start, min(BLOCK, sectors * SECTOR - start))
            self.kept[number] = kept
        return kept


class RecordedDisk(DiskImage):
    """A disk over ``Blocks``; ``like`` says what it looks like to its guest."""

    def __init__(
        self, blocks: Blocks, path: str, mode: Mode, sectors: int, identity: tuple[int, int]
    ) -> None:
        # Not the base's: there need not be a file.
        self.path = path
        self.mode = mode
        self.sectors = sectors
        self.identity = identity
        self._written = {}
        self._unflushed = False
        self.budget = CopyBudget()  # until it is attached
        self._file = -1
        self.blocks = blocks

    @classmethod
    def over(cls, image: DiskImage) -> "RecordedDisk":
        """A disk in place of one that is open.

        Raises:
            DebugError: it writes into its file.
        """
        if image.mode is Mode.WRITABLE:
            raise DebugError(
                f"disk {image.path}: what a guest writes to it with :rw could not be taken back; "
                "debug it without :rw"
            )
        disk = cls(Blocks(image), image.path, image.mode, image.sectors, image.identity)
        disk.budget = image.budget
        return disk

    def close(self) -> None:
        """What was written is forgotten; the file stays open, since it may be read again."""
        self.budget.kept -= self.kept
        self._written.clear()

    def _from_file(self, at: int, length: int) -> bytes:
        first, last = at // BLOCK, (at + length - 1) // BLOCK
        data = b"".join(self.blocks.block(n, self.sectors) for n in range(first, last + 1))
        start = at - first * BLOCK
        part = data[start : start + length]
        if len(part) != length:
            raise DiskError(f"disk {self.path}: the file is shorter than it was")
        return part
