"""Where the engine keeps its CPU state: offsets in its private structures, and the search for it.

The offsets are those of the build that ``emu.engine.TESTED_VERSION`` names. Nothing is taken on
trust: ``emu.engine`` finds each by a marker at start, and refuses a build where one is elsewhere.
"""

import os
import platform
import struct
import sys
from typing import Final

from emu.errors import UnsupportedEngineError

# Byte offsets in CPUX86State.
OFF_REGS: Final = 0
OFF_RIP: Final = 128
OFF_EFLAGS: Final = 136
OFF_CC_DST: Final = 144
OFF_CC_OP: Final = 168
OFF_DF: Final = 172
OFF_HFLAGS: Final = 176
OFF_SEGS: Final = 184
OFF_LDT: Final = 328
OFF_TR: Final = 352
OFF_GDT: Final = 376
OFF_CR: Final = 424
OFF_ERROR_CODE: Final = 5384
OFF_IS_INT: Final = 5388
OFF_NEXT_EIP: Final = 5392
OFF_OLD_EXCEPTION: Final = 5496
SEGMENT_BYTES: Final = 24

_STRUCT_SEARCH: Final = 4096
_STATE_SEARCH: Final = 1 << 16
# Byte offsets in the engine's CPUState: its X86 state, the pointer to that, and to its engine.
_CPU_STATE: Final = 35408
_CPU_ENV_PTR: Final = 296
_CPU_ENGINE: Final = 33192


def check_host() -> None:
    """Refuse a host where this cannot work.

    Raises:
        UnsupportedEngineError: it is not 64-bit Linux (for /proc/self/mem) on x86-64 (the
            instruction counter is machine code).
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64") or sys.maxsize < 1 << 62:
        raise UnsupportedEngineError(
            f"cowbird needs 64-bit Linux on x86-64, not {system} on {machine}"
        )


def find_cpu_state(handle: int, pattern: bytes) -> tuple[int, int]:
    """Addresses of CPUState and of CPUX86State of the engine ``handle`` in this process.

    ``pattern``: the 64 bytes that r8 to r15 hold.

    Raises:
        UnsupportedEngineError: it is nowhere, or in several places.
    """
    found: list[tuple[int, int]] = []
    with open("/proc/self/mem", "rb", buffering=0) as host:
        engine = os.pread(host.fileno(), _STRUCT_SEARCH, handle)
        for (pointer,) in struct.iter_unpack("<Q", engine):
            if pointer < 0x10000 or pointer >> 47:
                continue
            try:
                block = os.pread(host.fileno(), _STATE_SEARCH, pointer)
            except OSError:
                continue  # not a pointer
            # A CPUState points to its own state and back to its engine.
            if (
                block[_CPU_STATE + 64 : _CPU_STATE + 128] == pattern
                and block[_CPU_ENV_PTR:][:8] == struct.pack("<Q", pointer + _CPU_STATE)
                and block[_CPU_ENGINE:][:8] == struct.pack("<Q", handle)
            ):
                found.append((pointer, pointer + _CPU_STATE))
    if len(set(found)) != 1:
        raise UnsupportedEngineError(
            f"the CPU state of this build of Unicorn was not found ({len(found)} candidates)"
        )
    return found[0]
