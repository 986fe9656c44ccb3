"""The machine's run loop: memory, one CPU, and every way out of guest code as one value.

``run`` executes guest instructions until a number of them were started, somebody calls ``stop``,
or the CPU halts. Traps come to ``on_trap`` (and SYSCALL, the hot one, to ``on_syscall`` without a
``Trap`` being made); a handler may change any CPU state and memory, and the guest goes on with it.
There is no delivery through the guest's IDT: whoever owns the machine decides what a trap means.

Time is virtual: ``position`` counts instructions started since the machine was made (a faulting
attempt counts one, its repetition another, each iteration of REP one). It is exact, it is the
machine's only clock, and RDTSC reads it.
"""

from collections.abc import Callable
from enum import Enum

from emu.coherence import Coherence
from emu.cpu import CODE64, CS, DATA, DS, ES, FS, GS, RAX, RBX, RCX, RDX, RIP, SS, Cpu
from emu.disasm import disassemble
from emu.engine import Engine
from emu.errors import MachineError
from emu.memory import Memory
from emu.paging import CR0, CR4, EFER, PF_I, RFLAGS_TF
from emu.trap import DB, PF, UD, Trap, TrapKind
from emu.units import MA, PAGE_MASK, VA
from emu.walk import READ, Access, Controls, Walk, walk

CR0_BOOT = CR0.mask("PG", "AM", "WP", "NE", "ET", "MP", "PE")
"""Paging with write protection, as every modern kernel sets it."""
CR4_BOOT = CR4.mask("FSGSBASE", "OSXMMEXCPT", "OSFXSR", "MCE", "PAE", "PSE")
EFER_BOOT = EFER.mask("NXE", "LMA", "LME", "SCE")
_MSR_EFER = 0xC000_0080
_M32 = 0xFFFF_FFFF


class Ending(Enum):
    """Why ``run`` came back."""

    BUDGET = "the instructions are used up"
    STOPPED = "stop was called"
    HALTED = "the CPU halted"
    BREAK = "the next instruction is at an address that a debugger asked for"


CpuidResult = tuple[int, int, int, int]


class Machine:
    """One emulated computer with ``memory_size`` bytes of machine memory.

    The CPU starts in 64-bit mode at privilege 0 with paging on and CR3 = 0. To boot a flat binary:
    ``load`` it, write page tables into ``memory.words``, set ``cpu.cr3`` and flush, choose a
    privilege with ``flat64``, set ``on_trap`` and ``cpu.rip``, and ``run``::

        machine = Machine(16 << 20)
        machine.memory.write_u64(MA(0x1000), 0x2000 | PTE_P | PTE_RW)           # L4 -> L3
        machine.memory.write_u64(MA(0x2000), PTE_P | PTE_RW | PTE_PSE)          # the first GiB
        machine.cpu.cr3 = 0x1000
        machine.coherence.flush()              # whenever the host changes tables or CR3
        machine.load(MA(0x8000), assemble_bytes("mov eax, 42\\n hlt", 0x8000))
        machine.cpu.rip = 0x8000
        machine.run(100)                       # Ending.HALTED
        print(machine.cpu.register("rax"), machine.walk(VA(0x8000)).explain())

    Raises:
        MachineError: the memory size is not possible.
        UnsupportedEngineError: the installed Unicorn is not one that was tested.
    """

    def __init__(self, memory_size: int) -> None:
        self.memory = Memory(memory_size)
        self._engine = Engine(self.memory)
        self.cpu = Cpu(self._engine)
        self.coherence = Coherence(self._engine)
        self.on_trap: Callable[[Trap], None] = self._no_handler
        self.on_syscall: Callable[[], None] = self._syscall_as_trap
        self.on_cpuid: Callable[[int, int], CpuidResult | None] = lambda leaf, subleaf: None
        self.on_tsc: Callable[[], int] = lambda: self.position
        self.on_tsc_aux: Callable[[], int] = lambda: 0
        """What RDTSCP finds in the MSR TSC_AUX."""
        self.stops = self._engine.stops
        """Where a debugger has the CPU stop (``emu.stops``)."""
        self._cell = self._engine.cell
        self._base = 0
        self._budget = 0
        self._stop_asked = False
        self._no_step = False
        self._behind: int | None = None
        self._void = False
        self.on_debug: Callable[[], None] = lambda: None
        """A stop of ``stops.set_guest`` was reached: before an instruction that has not started,
        or, after ``debug_behind``, behind one that is complete. The CPU may be changed as in a
        trap."""
        self.on_void: Callable[[], None] = lambda: None
        """Instead of ``on_debug``: the instruction of ``debug_behind`` did not complete."""
        self._fetched_ahead_to: VA | None = None
        calls = self._engine.callbacks
        calls.interrupt = self._interrupt
        calls.invalid = self._invalid
        calls.syscall = self._syscall
        calls.sysenter = self._sysenter
        calls.port = self._port
        calls.cpuid = self._cpuid
        calls.rdtsc = self._rdtsc
        calls.rdtscp = self._rdtscp
        self.cpu.cr4 = CR4_BOOT
        self.cpu.write_msr(_MSR_EFER, EFER_BOOT)
        self.cpu.cr0 = CR0_BOOT
        self.flat64(cpl=0, code_selector=0x08, data_selector=0x10)

    def flat64(self, cpl: int, code_selector: int, data_selector: int) -> None:
        """Flat 64-bit segments of privilege ``cpl`` in all registers; FS and GS null, base 0."""
        dpl = (cpl << 13) | ~(3 << 13)
        cpu = self.cpu
        cpu.load_segment(CS, code_selector, CODE64 & dpl)
        for segment in (SS, DS, ES):
            cpu.load_segment(segment, data_selector, DATA & dpl)
        for segment in (FS, GS):
            cpu.load_segment(segment, 0, DATA & dpl)
        cpu.sync_mode()

    # -- running ---------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Instructions started since the machine was made, the one in hand included."""
        left = self._cell[0]
        return self._base + self._budget - (left if left > 0 else 0)

    def run(self, instructions: int) -> Ending:
        """Run guest code from the CPU's RIP for at most ``instructions``.

        Raises:
            MachineError: guest code reached outside machine memory.
            Exception: whatever a handler raised.
        """
        if instructions <= 0:
            raise MachineError(f"a run of {instructions} instructions")
        if self.coherence.pending:
            self.coherence.settle()
        self._stop_asked = False
        self._budget = instructions
        cell, left, exhausted = self._cell, instructions, False
        end: VA | None = None
        try:
            while True:
                rip = self.cpu.words[RIP]
                if end is None:
                    self._engine.run(rip, left)
                else:
                    self._engine.run_to(rip, end, left)
                again = end is not None
                end, self._fetched_ahead_to = self._fetched_ahead_to, None
                again |= end is not None
                if self.stops.broke or self._behind is not None:
                    self._debug()
                    again = True
                if self._stop_asked or self.stops.stopped or not again:
                    break
                left = cell[0]
                if left <= 0:
                    exhausted = True
                    break
        finally:
            used_up = self._cell[0] < 0 or exhausted
            self._behind = None
            self._base = self.position
            self._budget = 0
            self._cell[0] = 0
        if self._stop_asked:
            return Ending.STOPPED
        if self.stops.stopped:
            return Ending.BREAK
        return Ending.BUDGET if used_up else Ending.HALTED

    def save_counts(self) -> tuple[int, bool, int, int]:
        """What the machine knows besides CPU and memory, for ``load_counts``; between two runs."""
        return (self.position, self._no_step, self.coherence.flushes, self.coherence.page_flushes)

    def load_counts(self, saved: tuple[int, bool, int, int]) -> None:
        """Put back what ``save_counts`` gave: ``position`` is again what it was."""
        self._base, self._no_step, self.coherence.flushes, self.coherence.page_flushes = saved
        self._budget = 0
        self._cell[0] = 0

    def stop(self) -> None:
        """From a handler: come back from ``run`` when the handler is done."""
        self._stop_asked = True
        self._engine.stop()

    def cut(self) -> None:
        """From a handler or a stop: ``run`` ends behind the instruction in hand.

        Unlike ``stop`` it says nothing to whoever runs the machine: the run's instructions are
        used up, and going on makes it one run again.
        """
        left = self._cell[0]
        if left > 0:
            self._budget -= left
            self._cell[0] = 0
        if self._behind:
            self._behind = 0

    def debug_behind(self) -> None:
        """From ``stops.on_guest_access``: ``on_debug`` is due behind the instruction in hand.

        Not if it does not complete because of a fault; if it is a single step too, whoever handles
        that has both, and ``on_debug`` comes on top.
        """
        self._void = False
        if self._behind is None:
            self._behind = max(0, self._cell[0])
            self._budget -= self._behind
            self._cell[0] = 0

    def _debug(self) -> None:
        """Tell ``on_debug``, between two instructions."""
        void = False
        if self._behind is not None:
            # The run ended here only for this: it has the instructions back that it had left.
            self._budget += self._behind
            self._cell[0], self._behind = self._behind, None
            void = self._void
        if void:
            self.on_void()
        else:
            self.on_debug()
            if self.coherence.pending:
                self.coherence.settle()

    def leave_as_iret(self) -> None:
        """From a SYSCALL handler: the guest goes on as after IRET, not as after SYSRET.

        If RFLAGS.TF is set then, the single step is that of the next instruction; otherwise the
        engine raises #DB before any (SDM volume 2, SYSRET and IRET; volume 3B, 17.3.1.4).
        """
        self._no_step = True

    def step(self) -> Ending:
        """Run one instruction."""
        return self.run(1)

    def load(self, address: MA, data: bytes) -> None:
        """Copy bytes into machine memory, code included.

        Raises:
            MachineError: some of it falls outside machine memory.
        """
        if not self.memory.holds(address, len(data)):
            raise MachineError(f"{len(data)} bytes at {address:#x} are outside machine memory")
        self.memory.bytes[address : address + len(data)] = data
        self._engine.wrote(address, address + len(data))

    def walk(self, va: VA, access: Access = READ) -> Walk:
        """Translate ``va`` in software as the MMU would now, with every step explained.

        Uses the CPU's CR0, CR3, CR4 and RFLAGS; sets no accessed or dirty bit.
        """
        cpu = self.cpu
        controls = Controls.from_registers(cpu.cr0, cpu.cr4, EFER_BOOT, cpu.flags)
        return walk(self.memory, cpu.cr3, va, access=access, controls=controls)

    # -- traps -----------------------------------------------------------------------------

    def _no_handler(self, trap: Trap) -> None:
        raise MachineError(f"{trap}: nobody handles traps of this machine")

    def _interrupt(self, vector: int) -> None:
        cpu = self.cpu
        rip = cpu.rip
        self._void = vector != DB
        if self._no_step:
            self._no_step = False
            if vector == DB and not cpu.exception_is_int:
                return
        if cpu.exception_is_int:
            trap = Trap(TrapKind.SOFTWARE_INTERRUPT, vector, 0, VA(0), rip, rip, self.position)
        else:
            address = cpu.cr2 if vector == PF else VA(0)
            if vector == PF and cpu.error_code & PF_I and address >> 12 == (rip >> 12) + 1:
                end = self._runs_up_to(rip, address)
                if end != rip:
                    self._fetched_ahead_to = end
                    self._engine.stop()
                    return
            trap = Trap(
                TrapKind.EXCEPTION, vector, cpu.error_code, address, rip, rip, self.position
            )
        self.on_trap(trap)
        if self.coherence.pending:
            self.coherence.settle()

    def _runs_up_to(self, rip: VA, fault: VA) -> VA:
        """Start of the straight-line instruction that the fetch fault belongs to.

        The engine reports it for the block that begins at ``rip``; the CPU would first run what
        lies before the page of ``fault`` (SDM volume 3A, 6.5: faults are precise).
        """
        boundary = fault & ~PAGE_MASK
        found = walk(self.memory, self.cpu.cr3, rip)
        if found.ma is None:
            return rip
        code = self.memory.read(found.ma, boundary - rip)
        # Too few bytes are left for the last one if it continues in the next page.
        for instruction in disassemble(code, rip, self.cpu.bits):
            if instruction.is_bad:
                return instruction.address
        return VA(boundary)

    def _invalid(self) -> None:
        rip = self.cpu.rip
        self._void = True
        self.on_trap(Trap(TrapKind.EXCEPTION, UD, 0, VA(0), rip, rip, self.position))
        if self.coherence.pending:
            self.coherence.settle()

    def _syscall(self) -> None:
        self.on_syscall()
        if self._no_step and not self.cpu.flags & RFLAGS_TF:
            self._no_step = False  # there is no step to leave out
        if self.coherence.pending:
            self.coherence.settle()

    def _syscall_as_trap(self) -> None:
        rip = self.cpu.rip
        self.on_trap(Trap(TrapKind.SYSCALL, -1, 0, VA(0), rip, rip, self.position))

    def _sysenter(self) -> None:
        rip = self.cpu.rip
        self.on_trap(Trap(TrapKind.SYSENTER, -1, 0, VA(0), rip, rip, self.position))
        if self.coherence.pending:
            self.coherence.settle()

    def _port(self, port: int, size: int, is_in: bool) -> None:
        rip = self.cpu.rip
        kind = TrapKind.PORT_IO
        self.on_trap(Trap(kind, -1, size | is_in << 8, VA(port), rip, rip, self.position))
        if self.coherence.pending:
            self.coherence.settle()

    def _cpuid(self) -> bool:
        words = self.cpu.words
        result = self.on_cpuid(words[RAX] & _M32, words[RCX] & _M32)
        if result is None:
            return False
        words[RAX], words[RBX], words[RCX], words[RDX] = (value & _M32 for value in result)
        return True

    def _rdtscp(self) -> None:
        self._rdtsc()
        self.cpu.words[RCX] = self.on_tsc_aux() & _M32

    def _rdtsc(self) -> None:
        now = self.on_tsc()
        self.cpu.words[RAX] = now & _M32
        self.cpu.words[RDX] = (now >> 32) & _M32
