"""Unicorn, and everything about it that is not as the manual says.

This is the only module that imports Unicorn. It opens one engine over machine memory, finds the
engine's live CPU state, installs the hooks as plain C callbacks (the binding's own wrappers cost
several microseconds each) and runs for an exact number of instructions.

Quirks of Unicorn 2.1.4 that have their one home here:

- ``old_exception`` keeps the last vector, so that the second fault of a run would arrive as #DF
  and the third end it silently (upstream issue 1883): reset after every trap (``_on_interrupt``).
- ``syscall`` adds 2 to RIP *after* its hook: undone in ``_syscall_callback``, so that a handler
  sees and sets RIP as the architecture has it.
- IN and OUT never fault: turned into a trap by arming an I/O breakpoint from within the
  instruction's hook (``_on_port``).
- #UD hooks swallow Python errors; every callback here records them itself (``_guard``).
- A block is translated whole, so that code leading into a page that cannot be fetched faults at
  the block's start, before its instructions ran: ``emu.machine`` recognises that, and runs up to
  the boundary with ``run_to``.
- A non-zero ``until`` corrupts CR2: exits are switched to an empty set and ``until`` is 0.
- There is no exact way to count instructions or to stop at one: a machine-code stub counts down a
  cell before each instruction and asks the engine to stop when it is used up (``emu.stops``).
- While the engine runs, the arithmetic flags live apart from ``eflags``; on entry it takes them
  from there, so that flags set between two runs would be lost: folded in by ``run``.
- RDRAND and RDSEED give the host's random numbers, which no replay could repeat: their feature
  bits are cleared before the first translation, so that they raise #UD (``_disable_random``).
- Writes by the host into translated code are not seen, and there is no single-page TLB flush in
  the public API: both use functions that the shared library exports beside it.

The CPU state is reached in place: ``uc_context_save`` and ``restore`` copy 5.6 KB each way, which
costs more than the whole of a hypercall's dispatch. The state's address is found by searching the
engine's own structure for marker values, and the offsets of every field used are checked by more
markers and by a probe guest; a build where anything is not where it should be is refused.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final

import unicorn as binding
from unicorn import unicorn_const, x86_const
from unicorn import unicorn_py3 as unicorn
from unicorn.unicorn_py3.unicorn import uclib

from emu.callbacks import C_BOOL, C_IN, C_INTR, C_OUT, C_VOID, TrapCallbacks
from emu.cpustate import (
    OFF_CR,
    OFF_EFLAGS,
    OFF_ERROR_CODE,
    OFF_GDT,
    OFF_HFLAGS,
    OFF_OLD_EXCEPTION,
    OFF_REGS,
    OFF_RIP,
    OFF_SEGS,
    check_host,
    find_cpu_state,
)
from emu.errors import MachineError, UnsupportedEngineError
from emu.memory import Memory
from emu.stops import C_CODE, C_MEMORY, Stops, Stubs

TESTED_VERSION: Final = "2.1.4"

_HF_IO_BREAKPOINT: Final = 1 << 24
_FEATURE_SEARCH: Final = 0x2000
_CPUID_1_ECX_RDRAND: Final = 1 << 30
_CPUID_7_EBX_RDSEED: Final = 1 << 18
FPU_REGISTERS: Final = {
    "fctrl": x86_const.UC_X86_REG_FPCW,
    "fstat": x86_const.UC_X86_REG_FPSW,
    "ftag": x86_const.UC_X86_REG_FPTAG,
    "fiseg": x86_const.UC_X86_REG_FCS,
    "fioff": x86_const.UC_X86_REG_FIP,
    "foseg": x86_const.UC_X86_REG_FDS,
    "fooff": x86_const.UC_X86_REG_FDP,
    "fop": x86_const.UC_X86_REG_FOP,
    "mxcsr": x86_const.UC_X86_REG_MXCSR,
}
"""The binding's numbers of the x87 and SSE control registers."""
FP0: Final = int(x86_const.UC_X86_REG_FP0)
XMM0: Final = int(x86_const.UC_X86_REG_XMM0)
_M64: Final = (1 << 64) - 1
_UNLIMITED: Final = (1 << 63) - 1


def _function(name: str, restype: Any, *argtypes: Any) -> Any:
    """A function of the engine's library, typed.

    Raises:
        UnsupportedEngineError: the library does not export it.
    """
    try:
        function = getattr(uclib, name)
    except AttributeError as error:
        raise UnsupportedEngineError(
            f"this build of Unicorn does not export {name}; "
            f"cowbird needs the Linux wheel of unicorn {TESTED_VERSION}"
        ) from error
    # A private prototype: the binding's own attributes on shared function objects stay untouched.
    return ctypes.CFUNCTYPE(restype, *argtypes)(ctypes.cast(function, ctypes.c_void_p).value or 0)


class Engine:
    """One Unicorn CPU over one ``Memory``.

    ``words`` and ``halves`` are live views of the CPU state as u64 and u32; ``state`` as bytes.
    ``callbacks`` says who is called at traps; everything in them may change ``words``.
    """

    def __init__(self, memory: Memory) -> None:
        check_host()
        # Not importlib.metadata: it loads the e-mail package, a tenth of a small run's time.
        installed = str(binding.__version__)  # type: ignore[attr-defined]
        if installed != TESTED_VERSION:
            raise UnsupportedEngineError(
                f"unicorn {installed} is installed; cowbird needs {TESTED_VERSION}"
            )
        self.memory = memory
        self.callbacks = TrapCallbacks()
        self._error: BaseException | None = None
        # Any: the binding is untyped, and it is used for opening and rare registers only.
        self._uc: Any = unicorn.Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_BROADWELL)
        self._uc.ctl_exits_enabled(True)
        self._uc.mem_map_ptr(0, memory.size, unicorn_const.UC_PROT_ALL, memory.host_address)
        handle = self._uc._uch.value
        if handle is None:
            raise UnsupportedEngineError("Unicorn gave no engine handle")
        self._handle: int = handle
        self._bind_functions()
        self.state_bytes: Final[int] = self._context_size() - 40
        self._cpu_address, state_address = self._locate()
        window = (ctypes.c_ubyte * (self.state_bytes & ~7)).from_address(state_address)
        self._window = window
        self.state = memoryview(window).cast("B")
        self.words = self.state.cast("Q")
        self.halves = self.state.cast("I")
        self._check_offsets()
        self._stubs = Stubs(self._stop_address, _UNLIMITED)
        self.cell = self._stubs.cell
        self.stops = Stops(self._stubs, self.stop, self._watch_memory)
        self._memory_hooks: list[int] = []
        self._keep: list[object] = []
        self._saved_port_state: tuple[bytes, int, int, bool] | None = None
        self._install_hooks()
        self._probe()

    # -- opening ---------------------------------------------------------------------------

    def _bind_functions(self) -> None:
        p, u64, i32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
        self._uc_start = _function("uc_emu_start", i32, p, u64, u64, u64, ctypes.c_size_t)
        self._uc_stop = _function("uc_emu_stop", i32, p)
        self._uc_hook_del = _function("uc_hook_del", i32, p, ctypes.c_size_t)
        self._uc_reg_read = _function("uc_reg_read", i32, p, i32, p)
        self._tlb_flush = _function("tlb_flush_x86_64", None, p)
        self._tlb_flush_page = _function("tlb_flush_page_x86_64", None, p, u64)
        self._code_flush = _function("tb_invalidate_phys_range_x86_64", None, p, u64, u64)
        self._stop_address = ctypes.cast(uclib.uc_emu_stop, p).value or 0
        self._flags_cell = ctypes.c_uint64(0)
        self._flags_ref = ctypes.addressof(self._flags_cell)

    def _context_size(self) -> int:
        size = _function("uc_context_size", ctypes.c_size_t, ctypes.c_void_p)
        return int(size(self._handle))

    def _locate(self) -> tuple[int, int]:
        """Addresses of CPUState and of CPUX86State in this process, by markers in r8..r15."""
        markers = [0x5EA7_0000_C0DE_0001 + i * 0x0101_0000 for i in range(8)]
        for i, value in enumerate(markers):
            self._uc.reg_write(x86_const.UC_X86_REG_R8 + i, value)
        pattern = struct.pack("<8Q", *markers)
        return find_cpu_state(self._handle, pattern)

    def _check_offsets(self) -> None:
        """Write each register by the public API and find it at its offset, or refuse the build."""
        r = x86_const
        probes = {
            "RAX": (r.UC_X86_REG_RAX, OFF_REGS, 0x1111_2222_3333_0001),
            "RDI": (r.UC_X86_REG_RDI, OFF_REGS + 7 * 8, 0x1111_2222_3333_0002),
            "RIP": (r.UC_X86_REG_RIP, OFF_RIP, 0x0000_2222_3333_0003),
            "CR2": (r.UC_X86_REG_CR2, OFF_CR + 16, 0x1111_2222_3333_0004),
            "CR3": (r.UC_X86_REG_CR3, OFF_CR + 24, 0x0000_0000_0003_3000),
            "FS base": (r.UC_X86_REG_FS_BASE, OFF_SEGS + 4 * 24 + 8, 0x0000_2222_3333_0006),
            "GS base": (r.UC_X86_REG_GS_BASE, OFF_SEGS + 5 * 24 + 8, 0x0000_2222_3333_0007),
        }
        for name, (register, offset, value) in probes.items():
            before = self._uc.reg_read(register)
            self._uc.reg_write(register, value)
            at = self.words[offset >> 3]
            self._uc.reg_write(register, before)
            if at != value:
                raise UnsupportedEngineError(f"{name} is not where this build should keep it")
        self._uc.reg_write(r.UC_X86_REG_GDTR, (0, 0x1234_5000, 0x77, 0))
        if self.words[(OFF_GDT + 8) >> 3] != 0x1234_5000:
            raise UnsupportedEngineError("GDTR is not where this build should keep it")
        self._uc.reg_write(r.UC_X86_REG_GDTR, (0, 0, 0, 0))
        if self.halves[OFF_OLD_EXCEPTION >> 2] != 0xFFFF_FFFF:
            raise UnsupportedEngineError("old_exception is not where this build should keep it")
        self.kernel_gs_offset = self._find_msr(0xC000_0102)
        marker = 0x0000_1234_5678_9ABC
        self._uc.reg_write(r.UC_X86_REG_DR0, marker)
        self.debug_offset = self.state.tobytes().find(struct.pack("<Q", marker))
        self._uc.reg_write(r.UC_X86_REG_DR0, 0)
        if self.debug_offset < 0:
            raise UnsupportedEngineError("DR0 is not in this build's CPU state")

    def _find_msr(self, msr: int) -> int:
        marker = 0x0000_1357_9BDF_2468
        self._uc.msr_write(msr, marker)
        at = self.state.tobytes().find(struct.pack("<Q", marker))
        self._uc.msr_write(msr, 0)
        if at < 0:
            raise UnsupportedEngineError(f"MSR {msr:#x} is not in this build's CPU state")
        return at

    def _hook(self, kind: int, callback: object, *extra: ctypes.c_int, user: int = 0) -> int:
        add = uclib.uc_hook_add
        handle = ctypes.c_size_t()
        pointer = callback if isinstance(callback, int) else self._pointer(callback)
        status = add(
            ctypes.c_void_p(self._handle),
            ctypes.byref(handle),
            kind,
            ctypes.c_void_p(pointer),
            ctypes.c_void_p(user),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
            *extra,
        )
        if status:
            raise UnsupportedEngineError(f"hook {kind:#x}: Unicorn says error {status}")
        return handle.value

    def _pointer(self, callback: object) -> int:
        self._keep.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0  # type: ignore[arg-type]

    def _install_hooks(self) -> None:
        # Before the first run: code translated earlier would never call them.
        stubs = self._stubs
        stubs.connect(
            self._pointer(C_CODE(self._on_address)), self._pointer(C_MEMORY(self._on_access))
        )
        # One hook only: with two the engine calls neither directly.
        self._hook(unicorn_const.UC_HOOK_CODE, stubs.code_stub, user=stubs.cell_address)
        self._hook(unicorn_const.UC_HOOK_INTR, C_INTR(self._on_interrupt))
        self._hook(unicorn_const.UC_HOOK_INSN_INVALID, C_BOOL(self._on_invalid))
        for instruction, callback in (
            (x86_const.UC_X86_INS_SYSCALL, C_VOID(self._syscall_callback())),
            (x86_const.UC_X86_INS_SYSENTER, C_VOID(self._on_sysenter)),
            (x86_const.UC_X86_INS_IN, C_IN(self._on_in)),
            (x86_const.UC_X86_INS_OUT, C_OUT(self._on_out)),
            (x86_const.UC_X86_INS_CPUID, C_BOOL(self._on_cpuid)),
            (x86_const.UC_X86_INS_RDTSC, C_BOOL(self._on_rdtsc)),
            (x86_const.UC_X86_INS_RDTSCP, C_BOOL(self._on_rdtscp)),
        ):
            self._hook(unicorn_const.UC_HOOK_INSN, callback, ctypes.c_int(instruction))

    def _watch_memory(self, on: bool) -> None:
        """Have the memory stub called, or not any more; for ``Stops``."""
        if on:
            stubs = self._stubs
            for kind in (unicorn_const.UC_HOOK_MEM_READ, unicorn_const.UC_HOOK_MEM_WRITE):
                hook = self._hook(kind, stubs.data_stub, user=stubs.data_address)
                self._memory_hooks.append(hook)
        else:
            for hook in self._memory_hooks:
                self._uc_hook_del(self._handle, hook)
            self._memory_hooks.clear()
        # Whether there are hooks is compiled into every access.
        self._uc.ctl_flush_tb()

    def _probe(self) -> None:
        """Take a #PF in a scratch guest and check what only a trap can show."""
        seen: list[tuple[int, int, int, int]] = []

        def note(vector: int) -> None:
            halves = self.halves
            old = halves[OFF_OLD_EXCEPTION >> 2]
            seen.append((vector, halves[OFF_ERROR_CODE >> 2], self.words[(OFF_CR + 16) >> 3], old))
            self.stop()

        self.words[: OFF_RIP >> 3] = memoryview(bytes(OFF_RIP)).cast("Q")  # no markers left
        before = self.state.tobytes()
        scratch = self.memory.bytes[:0x4000].tobytes()
        self.callbacks.interrupt = note
        words = self.memory.words
        words[0x1000 >> 3], words[0x2000 >> 3], words[0x3000 >> 3] = 0x2003, 0x3003, 0x83
        # L3 entry 1 (1 GiB) is absent: mov [0x40000123], eax faults with error code 2 (write).
        self.memory.bytes[0x100:0x107] = b"\x89\x04\x25\x23\x01\x00\x40"
        r = x86_const
        self._uc.reg_write(r.UC_X86_REG_CR4, 0x20)
        self._uc.reg_write(r.UC_X86_REG_CR3, 0x1000)
        self._uc.msr_write(0xC000_0080, 0xD01)
        self._uc.reg_write(r.UC_X86_REG_CR0, 0x8005_0033)
        stopped_at = self.run(0x100, 10)
        self.callbacks.interrupt = lambda vector: None
        self._disable_random()
        ok = seen == [(14, 2, 0x4000_0123, 14)] and stopped_at == 0x100
        self.memory.bytes[:0x4000] = scratch
        self.wrote(0, 0x4000)
        self.state[:] = before[: len(self.state)]
        self.flush_tlb()
        if not ok:
            raise UnsupportedEngineError(f"the probe guest's page fault came as {seen}")
        self.halves[OFF_HFLAGS >> 2] |= _HF_IO_BREAKPOINT

    def _disable_random(self) -> None:
        """Find the engine's feature words by what CPUID reports, and clear RDRAND and RDSEED."""
        self.memory.bytes[0x200:0x203] = b"\x0f\xa2\xf4"  # cpuid; hlt
        self.words[0] = 1
        self.run(0x200, 2)
        ecx, edx = self.words[1] & 0xFFFF_FFFF, self.words[2] & 0xFFFF_FFFF
        beyond = ctypes.string_at(ctypes.addressof(self._window), _FEATURE_SEARCH)
        at = beyond.find(struct.pack("<QQ", edx, ecx), self.state_bytes)
        if at < 0 or at % 8:
            raise UnsupportedEngineError("the CPU's feature words are not where they should be")
        features = (ctypes.c_uint64 * 3).from_address(ctypes.addressof(self._window) + at)
        features[1] &= ~_CPUID_1_ECX_RDRAND
        features[2] &= ~_CPUID_7_EBX_RDSEED

    # -- running ---------------------------------------------------------------------------

    def run(self, rip: int, instructions: int) -> int:
        """Run from ``rip`` until ``instructions`` were started, ``stop`` or an ending.

        Returns RIP. Afterwards ``cell[0]`` is what is left of the instructions, -1 if used up.

        Raises:
            MachineError: the engine gave up (an access outside machine memory).
            BaseException: whatever a callback raised.
        """
        self.cell[0] = instructions
        self.stops.stopped = self.stops.broke = False
        self.words[OFF_EFLAGS >> 3] = self.flags()
        status = self._uc_start(self._handle, rip, 0, 0, 0)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        at = self.words[OFF_RIP >> 3]
        if status:
            text = uclib.uc_strerror(status).decode()
            raise MachineError(f"Unicorn stopped at {at:#x}: {text}")
        return at

    def run_to(self, rip: int, end: int, instructions: int) -> int:
        """Like ``run``, and stop before the instruction at ``end``; slow, for rare use."""
        self._uc.ctl_set_exits([end])
        try:
            return self.run(rip, instructions)
        finally:
            self._uc.ctl_set_exits([])
            # Exits are compiled into what was translated meanwhile.
            self._uc.ctl_flush_tb()

    def stop(self) -> None:
        """Leave ``run`` after the instruction in hand; for callbacks."""
        self._uc_stop(self._handle)

    def flags(self) -> int:
        """RFLAGS, with the arithmetic flags that the engine computes lazily."""
        self._uc_reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, self._flags_ref)
        return self._flags_cell.value

    def read_register(self, number: int) -> Any:
        """A register by the binding's number, as the binding gives it; slow."""
        return self._uc.reg_read(number)

    def write_register(self, number: int, value: Any) -> None:
        """The other way; for registers from which the engine derives nothing."""
        self._uc.reg_write(number, value)

    def write_msr(self, msr: int, value: int) -> None:
        """Write an MSR of the real CPU (EFER, STAR, FS base...)."""
        self._uc.msr_write(msr, value)

    def write_control(self, number: int, value: int) -> None:
        """Write CR0, CR3 or CR4 with all that the engine derives from them."""
        register = {
            0: x86_const.UC_X86_REG_CR0,
            3: x86_const.UC_X86_REG_CR3,
            4: x86_const.UC_X86_REG_CR4,
        }[number]
        self._uc.reg_write(register, value)

    def flush_tlb(self) -> None:
        """Forget every cached translation."""
        self._tlb_flush(self._cpu_address)

    def flush_tlb_page(self, va: int) -> None:
        """Forget the cached translation of the page of ``va`` (all, if it is in a superpage)."""
        self._tlb_flush_page(self._cpu_address, va)

    def wrote(self, start: int, end: int) -> None:
        """Drop translated code made from machine addresses ``start`` <= a < ``end``."""
        self._code_flush(self._handle, start, end)

    # -- callbacks -------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._uc_stop(self._handle)

    def _on_interrupt(self, _uc: int, vector: int, _user: int) -> None:
        try:
            if vector == 1 and self._saved_port_state is not None:
                self._finish_port()
            else:
                self.callbacks.interrupt(vector)
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
        self.halves[OFF_OLD_EXCEPTION >> 2] = 0xFFFF_FFFF

    def _on_invalid(self, _uc: int, _user: int) -> int:
        try:
            self.callbacks.invalid()
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
        self.halves[OFF_OLD_EXCEPTION >> 2] = 0xFFFF_FFFF
        return 1

    def _syscall_callback(self) -> Callable[[int, int], None]:
        """The hottest callback, as a closure: names that it would look up each time are bound."""
        words, callbacks, failed, rip = self.words, self.callbacks, self._failed, OFF_RIP >> 3

        def on_syscall(_uc: int, _user: int) -> None:
            words[rip] = (words[rip] + 2) & _M64
            try:
                callbacks.syscall()
            except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
                failed(error)
            words[rip] = (words[rip] - 2) & _M64

        return on_syscall

    def _on_address(self, _uc: int, address: int, _size: int, _user: int) -> None:
        try:
            self.stops.reached(address)
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)

    def _on_access(
        self, _uc: int, kind: int, address: int, size: int, value: int, _user: int
    ) -> None:
        try:
            written = value & _M64 if kind == unicorn_const.UC_MEM_WRITE else None
            self.stops.accessed(address, size, written)
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)

    def _on_sysenter(self, _uc: int, _user: int) -> None:
        words = self.words
        try:
            self.callbacks.sysenter()
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
        words[OFF_RIP >> 3] = (words[OFF_RIP >> 3] - 2) & _M64

    def _on_cpuid(self, _uc: int, _user: int) -> int:
        try:
            return int(self.callbacks.cpuid())
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
            return 1

    def _on_rdtsc(self, _uc: int, _user: int) -> int:
        try:
            self.callbacks.rdtsc()
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
        return 1

    def _on_rdtscp(self, _uc: int, _user: int) -> int:
        try:
            self.callbacks.rdtscp()
        except BaseException as error:  # noqa: BLE001 - carried to run() and raised there
            self._failed(error)
        return 1

    def _on_in(self, _uc: int, port: int, size: int, _user: int) -> int:
        self._arm_port(port, size, True)
        return 0

    def _on_out(self, _uc: int, port: int, size: int, _value: int, _user: int) -> None:
        self._arm_port(port, size, False)

    def _arm_port(self, port: int, size: int, is_in: bool) -> None:
        """From inside IN/OUT: make the engine raise #DB right behind the instruction."""
        if self._error is not None or self._saved_port_state is not None:
            return  # INS/OUTS under REP: the first iteration armed it
        self._saved_port_state = (self.state.tobytes(), port, size, is_in)
        dr = self.debug_offset >> 3
        self.words[dr] = port
        self.words[dr + 7] = 0x1 | 0x2 << 16 | 0x2 << 18  # L0, R/W0 = I/O, LEN0 = 8 bytes
        self.halves[OFF_HFLAGS >> 2] |= _HF_IO_BREAKPOINT

    def _finish_port(self) -> None:
        """The #DB armed above: put the state before the instruction back and report the port."""
        if self._saved_port_state is None:
            return
        state, port, size, is_in = self._saved_port_state
        self._saved_port_state = None
        self.state[:] = state
        self.callbacks.port(port, size, is_in)
