"""Where the engine stops: at addresses of code, and at accesses to memory.

Two ask for it, a debugger and the debug registers of the guest that runs (``set_guest``); neither
knows of the other. At one address the debugger comes first.

Nothing of this is in the guest: no instruction is replaced, no page protected, no register armed.
The engine calls a few instructions of machine code before every guest instruction anyway (they
count it); where there are stops these also look the address up in a bitmap, and only a hit reaches
Python. The bitmap is switched on and off by one byte, so that a domain without stops pays nothing,
and setting or moving a stop leaves translated code alone.

Accesses to data are seen by memory hooks, which make every access of newly translated code take
the engine's slow path. They are there only while something is watched. What they look up is again
a bitmap, by frame, so that a watch can follow a page that moves without anything being translated
again.

Invariants: a stop at an address comes before the instruction has started, and the count of
instructions is as if it had not been looked at; a watch reports before the access is carried out
(``old`` values can be read), and whoever is told may ask for a stop behind that instruction.

Addresses of code are linear; addresses of data are machine addresses, as the hooks report them.
"""

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterable
from typing import Final

CELL_BYTES: Final = 64
"""The counter, and room that keeps the bitmap apart from it."""
_CODE_BITS: Final = 1 << 16
_DATA_BITS: Final = 1 << 16
_RET: Final = 0xC3
_NOP: Final = 0x90
_PAGE_SHIFT: Final = 12

AddressCallback = Callable[[int], None]
AccessCallback = Callable[[int, int, int | None], None]
"""Machine address, bytes, and the value to be written (cut to 64 bits), None for a read."""

C_CODE: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
)
C_MEMORY: Final = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_void_p,
)


class Stubs:
    """The machine code that the engine's hooks call, and the tables that it reads.

    ``cell``: instructions left. ``code_stub`` is called with the engine in RDI, the linear address
    in RSI and ``cell_address`` in RCX; ``data_stub`` with the machine address in RDX and
    ``data_address`` in R9.
    """

    def __init__(self, stop_function: int, start: int) -> None:
        self._page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._anchor = (ctypes.c_char * 4096).from_buffer(self._page)
        self._block = (ctypes.c_ubyte * (CELL_BYTES + _CODE_BITS // 8))()
        self._frames = (ctypes.c_ubyte * (_DATA_BITS // 8))()
        self.cell_address = ctypes.addressof(self._block)
        self.data_address = ctypes.addressof(self._frames)
        self.cell = memoryview(self._block).cast("B")[:8].cast("q")
        self.cell[0] = start
        self._code_bits = memoryview(self._block).cast("B")[CELL_BYTES:]
        self._data_bits = memoryview(self._frames).cast("B")
        base = ctypes.addressof(self._anchor)
        self.code_stub = base
        self._switch = 6
        self.data_stub = base + 128
        self._stop_function = stop_function
        self._write_code(0)
        self._write_data(0)

    def _write_code(self, callback: int) -> None:
        """``dec [rcx]; js stop; ret`` where nothing is looked up; the RET becomes a NOP for::

        movzx eax, si; mov edx, eax; shr edx, 3; movzx edx, byte [rcx + rdx + 64]
        and eax, 7; bt edx, eax; jc found; ret
        found: mov rax, callback; jmp rax
        stop:  mov rax, uc_emu_stop; jmp rax
        """
        look = b"\x0f\xb7\xc6\x89\xc2\xc1\xea\x03\x0f\xb6\x54\x11\x40\x83\xe0\x07\x0f\xa3\xc2"
        look += b"\x72\x01\xc3"
        found = b"\x48\xb8" + struct.pack("<Q", callback) + b"\xff\xe0"
        stop = b"\x48\xb8" + struct.pack("<Q", self._stop_function) + b"\xff\xe0"
        head = b"\x48\xff\x09\x78" + bytes([1 + len(look) + len(found)])
        self._switch = len(head)
        code = head + bytes([_RET]) + look + found + stop
        self._page[: len(code)] = code

    def _write_data(self, callback: int) -> None:
        """``mov rax, rdx; shr rax, 12; movzx eax, ax; mov r10d, eax; shr r10d, 3;
        movzx r10d, byte [r9 + r10]; and eax, 7; bt r10d, eax; jc found; ret``, then as above.
        """
        code = b"\x48\x89\xd0\x48\xc1\xe8\x0c\x0f\xb7\xc0\x41\x89\xc2\x41\xc1\xea\x03"
        code += b"\x47\x0f\xb6\x14\x11\x83\xe0\x07\x41\x0f\xa3\xc2\x72\x01\xc3"
        code += b"\x48\xb8" + struct.pack("<Q", callback) + b"\xff\xe0"
        self._page[128 : 128 + len(code)] = code

    def connect(self, code: int, data: int) -> None:
        """Set the C functions that a hit calls."""
        self._write_code(code)
        self._write_data(data)

    def look_up_code(self, on: bool) -> None:
        """Whether addresses are looked up at all."""
        self._page[self._switch] = _NOP if on else _RET

    def set_code(self, addresses: Iterable[int]) -> None:
        """The addresses to be found; others with the same low 16 bits are found as well."""
        _fill(self._code_bits, (address & 0xFFFF for address in addresses))

    def set_data(self, frames: Iterable[int]) -> None:
        """The frames to be found; others with the same low 16 bits are found as well."""
        _fill(self._data_bits, (frame & 0xFFFF for frame in frames))


def _fill(bits: memoryview, numbers: Iterable[int]) -> None:
    bits[:] = bytes(len(bits))
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)


class Stops:
    """The stops of one engine. Made by the engine; set by whoever debugs.

    ``on_address`` is told of an instruction that is about to start and returns whether to stop
    before it; ``on_access`` of an access that is about to happen.
    """

    def __init__(
        self, stubs: Stubs, stop_before: Callable[[], None], watch: Callable[[bool], None]
    ) -> None:
        self._stubs = stubs
        self._stop_before = stop_before
        self._watch = watch
        self._addresses: frozenset[int] = frozenset()
        self._every = False
        self._frames: frozenset[int] = frozenset()
        self._watching = False
        self.on_address: Callable[[int], bool] = lambda address: False
        self.on_access: AccessCallback = lambda address, size, value: None
        self.stopped = False
        """True after a run that ended before an instruction for ``on_address``."""
        self._guest_addresses: frozenset[int] = frozenset()
        self._guest_frames: frozenset[int] = frozenset()
        self._guest_watches = False
        self.on_guest_address: Callable[[int], bool] = lambda address: False
        self.on_guest_access: AccessCallback = lambda address, size, value: None
        self.broke = False
        """True after a run that ended before an instruction for ``on_guest_address``. It counts,
        as the attempt of an instruction that faults does."""

    @property
    def has_guest(self) -> bool:
        """True if anything is set for the guest that runs."""
        return bool(self._guest_addresses or self._guest_frames)

    def set_guest(self, addresses: frozenset[int], frames: frozenset[int], watch: bool) -> None:
        """The same for the guest's debug registers: ask ``on_guest_address``, and tell
        ``on_guest_access`` of accesses to ``frames``. ``watch``: some guest has any."""
        if addresses != self._guest_addresses:
            self._guest_addresses = addresses
            self._load()
        if frames != self._guest_frames:
            self._guest_frames = frames
            self._stubs.set_data(self._frames | frames)
        if watch != self._guest_watches:
            self._guest_watches = watch
            if not self._watching:
                self._watch(watch)

    @property
    def addresses(self) -> frozenset[int]:
        """Linear addresses at which ``on_address`` is asked."""
        return self._addresses

    def set_addresses(self, addresses: frozenset[int]) -> None:
        """Ask ``on_address`` before each instruction at one of these; at any time."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._load()

    @property
    def every(self) -> bool:
        """Ask ``on_address`` before each instruction, wherever it is: slow."""
        return self._every

    @every.setter
    def every(self, on: bool) -> None:
        if on != self._every:
            self._every = on
            self._load()

    def _load(self) -> None:
        addresses = self._addresses | self._guest_addresses
        self._stubs.set_code(range(_CODE_BITS) if self._every else addresses)
        self._stubs.look_up_code(self._every or bool(addresses))

    def set_frames(self, frames: frozenset[int]) -> None:
        """Tell ``on_access`` of accesses to these frames; at any time while ``watching``."""
        if frames != self._frames:
            self._frames = frames
            self._stubs.set_data(frames | self._guest_frames)

    @property
    def watching(self) -> bool:
        """Whether accesses to data are seen at all; drops all translations when it changes."""
        return self._watching

    @watching.setter
    def watching(self, on: bool) -> None:
        if on != self._watching:
            self._watching = on
            if not self._guest_watches:
                self._watch(on)

    # -- what the stubs reach --------------------------------------------------------------

    def reached(self, address: int) -> None:
        """A stub found ``address``."""
        if (self._every or address in self._addresses) and self.on_address(address):
            self._stubs.cell[0] += 1  # counted already, and now it does not start
            self.stopped = True
            self._stop_before()
        elif address in self._guest_addresses and self.on_guest_address(address):
            self.broke = True
            self._stop_before()

    def accessed(self, address: int, size: int, value: int | None) -> None:
        """A stub found the frame of an access."""
        first, last = address >> _PAGE_SHIFT, (address + size - 1) >> _PAGE_SHIFT
        if first in self._frames or last in self._frames:
            self.on_access(address, size, value)
        if first in self._guest_frames or last in self._guest_frames:
            self.on_guest_access(address, size, value)
