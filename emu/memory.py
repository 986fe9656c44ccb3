"""Machine memory: one sparse mapping of the host, seen as bytes, as 64-bit words and as frames.

Frames are 4 KiB and numbered from 0 (MFN). Host pages are allocated when first touched, so a
4 GiB machine costs what its guests use. The views are live: what the guest's CPU stores is read
here at once. What is written *here* into a frame that holds translated code must be announced to
``emu.coherence`` before the guest runs again.
"""

import ctypes
import mmap
from typing import TYPE_CHECKING

import numpy as np

from emu.errors import MachineError
from emu.units import MA, MFN, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_BYTES = 1 << 20
MAX_BYTES = 64 << 30
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_ZERO_FRAME = bytes(PAGE_SIZE)


class Memory:
    """Machine memory of ``size`` bytes.

    ``bytes`` is a writable byte view, ``words`` the same memory as 64-bit little-endian words
    (index = machine address // 8), ``array`` a numpy matrix of shape (frames, 512), uint64.

    Raises:
        MachineError: the size is not a multiple of 4 KiB, out of range, or not to be had.
    """

    def __init__(self, size: int) -> None:
        if size % PAGE_SIZE or not MIN_BYTES <= size <= MAX_BYTES:
            raise MachineError(
                f"machine memory of {size} bytes: must be a multiple of 4 KiB "
                f"between {MIN_BYTES >> 20} MiB and {MAX_BYTES >> 30} GiB"
            )
        try:
            self._map = mmap.mmap(
                -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            )
        except OSError as error:
            raise MachineError(f"machine memory of {size >> 20} MiB: {error.strerror}") from error
        self.size = size
        self.frames = size >> PAGE_SHIFT
        self._anchor = (ctypes.c_char * size).from_buffer(self._map)
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")
        self.array: NDArray[np.uint64] = np.frombuffer(self._map, dtype=np.uint64).reshape(
            self.frames, PAGE_SIZE // 8
        )

    @property
    def host_address(self) -> int:
        """Address of byte 0 in this process, for the engine to map."""
        return ctypes.addressof(self._anchor)

    def holds(self, address: int, length: int = 1) -> bool:
        """True if the ``length`` bytes from machine address ``address`` all exist."""
        return address >= 0 and address + length <= self.size

    def read_u64(self, address: MA) -> int:
        """The aligned 64-bit word at ``address``; 0 outside memory, as the MMU's walk reads it."""
        if not 0 <= address <= self.size - 8:
            return 0
        return self.words[address >> 3]

    def write_u64(self, address: MA, value: int) -> None:
        """Store an aligned 64-bit word; tell ``Coherence`` if it was a table entry or code.

        Raises:
            MachineError: it is not aligned, or outside machine memory.
        """
        if address & 7 or not self.holds(address, 8):
            raise MachineError(f"no aligned 64-bit word of machine memory is at {address:#x}")
        self.words[address >> 3] = value

    def read(self, address: MA, length: int) -> bytes:
        """``length`` bytes from machine address ``address``.

        Raises:
            MachineError: some of them are outside machine memory.
        """
        if not self.holds(address, length):
            raise MachineError(f"{length} bytes at {address:#x} are outside machine memory")
        return bytes(self.bytes[address : address + length])

    def frame(self, mfn: MFN) -> memoryview:
        """Live view of the 4,096 bytes of a frame."""
        start = mfn << PAGE_SHIFT
        return self.bytes[start : start + PAGE_SIZE]

    def frame_bytes(self, mfn: MFN) -> bytes:
        """A copy of a frame (4,096 bytes); compare these, memoryviews compare ten times slower."""
        start = mfn << PAGE_SHIFT
        return self._map[start : start + PAGE_SIZE]

    def clear_frame(self, mfn: MFN) -> None:
        """Fill a frame with zeros."""
        start = mfn << PAGE_SHIFT
        self._map[start : start + PAGE_SIZE] = _ZERO_FRAME

    def zero_frame(self, mfn: MFN) -> None:
        """Fill a frame with zeros.

        One that is zero already is only read: a host page that was never touched stays so.
        """
        start = mfn << PAGE_SHIFT
        if self._map[start : start + PAGE_SIZE] != _ZERO_FRAME:
            self._map[start : start + PAGE_SIZE] = _ZERO_FRAME
