"""What the engine tells the machine: one callback for each way out of guest code."""

import ctypes
from collections.abc import Callable

InterruptCallback = Callable[[int], None]
VoidCallback = Callable[[], None]
PortCallback = Callable[[int, int, bool], None]
CpuidCallback = Callable[[], bool]

# The prototypes of the C functions that the engine calls.
C_INTR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
C_VOID = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
C_BOOL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
C_IN = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p
)
C_OUT = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
)


class TrapCallbacks:
    """What the machine wants to be told; set once, before the first run."""

    def __init__(self) -> None:
        self.interrupt: InterruptCallback = lambda vector: None
        self.invalid: VoidCallback = lambda: None
        self.syscall: VoidCallback = lambda: None
        self.sysenter: VoidCallback = lambda: None
        self.port: PortCallback = lambda port, size, is_in: None
        self.cpuid: CpuidCallback = lambda: False
        self.rdtsc: VoidCallback = lambda: None
        self.rdtscp: VoidCallback = lambda: None
