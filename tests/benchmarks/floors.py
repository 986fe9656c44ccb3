"""The bare floors: the least that Unicorn alone needs for the work of each hot path.

Each floor does what cannot be left out, with plain C callbacks and no hypervisor around it: take
the trap, read and write the registers it needs through the engine's public context calls, touch
the frames and entries. Times are CPU seconds for ``n`` repetitions; only ratios are reported.
"""

import ctypes
import time

from unicorn.unicorn_py3.unicorn import uclib
from xxhash import xxh3_64_intdigest

from emu.cpu import RBX, RDI
from emu.paging import PTE_RW
from emu.units import ENTRIES, MFN, PAGE_SHIFT
from tests.emu.bare import L1, TABLE, WINDOW, Bare

LOOP = "again: mov eax, 17\n xor edi, edi\n syscall\n dec ebx\n jnz again\n int3"
STORES = """
again: mov [rdi], al
    mov  rsi, 0x700000
    mov  ecx, 4096 / 32
1:  movaps xmm0, [rsi]
    movaps xmm1, [rsi + 16]
    movaps [rdi], xmm0
    movaps [rdi + 16], xmm1
    add  rsi, 32
    add  rdi, 32
    dec  ecx
    jnz  1b
    syscall
    dec  ebx
    jnz  again
    int3
"""
"""Write to a read-only page, copy a page into it, one hypercall: a copy-on-write cycle's shape."""


class _Context:
    """Registers through uc_context_save and uc_context_restore, the public way."""

    def __init__(self, bare: Bare) -> None:
        engine = bare.machine._engine
        self._handle = ctypes.c_void_p(engine._handle)
        self._context = engine._uc.context_save()
        self._blob = (
            self._context._context
            if hasattr(self._context, "_context")
            else (self._context.context)
        )
        size = uclib.uc_context_size(self._handle)
        raw = (ctypes.c_char * size).from_address(ctypes.cast(self._blob, ctypes.c_void_p).value)
        self.words = memoryview(raw).cast("B")[40:5600].cast("Q")

    def save(self) -> None:
        uclib.uc_context_save(self._handle, self._blob)

    def restore(self) -> None:
        uclib.uc_context_restore(self._handle, self._blob)


def null_hypercall(n: int) -> float:
    """``n`` SYSCALLs, each answered in RAX through the public context calls."""
    bare = Bare()
    bare.code(LOOP)
    context = _Context(bare)
    words = context.words

    def answer() -> None:
        context.save()
        words[0] = words[0] + 1
        context.restore()

    bare.machine._engine.callbacks.syscall = answer
    return _timed(bare, n)


def copy_on_write(n: int) -> float:
    """``n`` write faults, each given a new frame; the guest copies; one SYSCALL; one flush."""
    bare = Bare(64 << 20)
    for i in range(n):
        bare.map(i, 0x800 + i, TABLE & ~PTE_RW)
    bare.code(STORES)
    bare.machine.memory.array[0x1000 : 0x1000 + n, 0] = 1  # the host has given them pages
    bare.machine.cpu.words[RDI] = WINDOW
    context = _Context(bare)
    words, engine = bare.words, bare.machine._engine
    faulted = 0

    def mend(_vector: int) -> None:
        nonlocal faulted
        if _vector != 14:
            bare.machine.stop()
            return
        context.save()
        entry = L1 * ENTRIES + faulted
        words[entry] = 0x1000 + faulted << PAGE_SHIFT | TABLE
        faulted += 1
        context.restore()
        engine.flush_tlb()

    def answer() -> None:
        context.save()
        context.words[0] = 0
        context.restore()

    engine.callbacks.interrupt = mend
    engine.callbacks.syscall = answer
    seconds = _timed(bare, n)
    assert faulted == n
    return seconds


def batched_share(n: int) -> float:
    """For ``n`` pages: hash, find in a dict, compare bytes, and change the entry; one flush."""
    bare = Bare(64 << 20)
    memory, words = bare.machine.memory, bare.words
    table = {xxh3_64_intdigest(memory.frame_bytes(MFN(0x800))): 0x800}
    for i in range(ENTRIES):
        bare.map(i, 0x1000 + i, TABLE)
    start = time.process_time()
    for i in range(n):
        entry = L1 * ENTRIES + i % ENTRIES
        mfn = MFN(words[entry] >> PAGE_SHIFT & 0xFFFFF)
        contents = memory.frame_bytes(mfn)
        found = table[xxh3_64_intdigest(contents)]
        if memory.frame_bytes(MFN(found)) == contents:
            words[entry] = 0x1000 + i % ENTRIES << PAGE_SHIFT | TABLE & ~PTE_RW
    bare.machine._engine.flush_tlb()
    return time.process_time() - start


def _timed(bare: Bare, n: int) -> float:
    bare.machine.cpu.words[RBX] = n
    start = time.process_time()
    bare.machine.run(2000 * n)
    return time.process_time() - start
