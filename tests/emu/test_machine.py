"""The run loop: exact counting, traps as values, coherence, determinism, errors from callbacks."""

import platform

import pytest

import emu.engine
from emu import Ending, Machine, Trap, TrapKind
from emu.asm import assemble_bytes
from emu.cpu import CS, RAX, RBX, RCX, RDI, RDX, RSI, SS
from emu.engine import Engine
from emu.errors import MachineError, UnsupportedEngineError
from emu.memory import Memory
from emu.paging import (
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_RW,
    PTE_US,
    RFLAGS_CF,
    RFLAGS_DF,
    RFLAGS_OF,
    RFLAGS_ZF,
)
from emu.trap import BP, GP, PF, UD
from emu.units import ENTRIES, MA, MFN
from tests.emu.bare import CODE, L1, WINDOW, Bare

USER_RW = PTE_P | PTE_RW | PTE_US
USER_RO = PTE_P | PTE_US


def test_budget_is_exact_to_the_instruction() -> None:
    bare = Bare()
    bare.code("again: inc rax\n inc rbx\n jmp again")
    for budget in (1, 2, 3, 7, 1000):
        before = bare.machine.position
        assert bare.machine.run(budget) is Ending.BUDGET
        assert bare.machine.position == before + budget
    words = bare.machine.cpu.words
    assert words[RAX] + words[RBX] == pytest.approx(1013 * 2 / 3, abs=1)


@pytest.mark.parametrize("slice_", [1, 2, 3, 5, 17, 100_000])
def test_slices_do_not_change_what_a_guest_computes(slice_: int) -> None:
    bare = Bare()
    bare.code(
        "mov ecx, 500\n mov eax, 1\nagain: imul eax, eax, 7\n adc eax, ecx\n push rax\n pop rdx\n"
        " loop again\n ud2"
    )
    bare.machine.cpu.words[4] = 0x20000
    while bare.machine.run(slice_) is Ending.BUDGET:
        pass
    assert [t.vector for t in bare.traps] == [UD]
    expected, carry = 1, 0
    for count in range(500, 0, -1):
        product = (expected - (1 << 32) if expected >> 31 else expected) * 7
        carry = not -(1 << 31) <= product < 1 << 31
        expected = ((product & 0xFFFF_FFFF) + count + carry) & 0xFFFF_FFFF
    assert bare.machine.cpu.words[RAX] == expected
    assert bare.machine.position == 2 + 500 * 5 + 1


def test_a_faulting_instruction_counts_and_repeats() -> None:
    bare = Bare()
    bare.map(0, 0x100, USER_RO)
    bare.code("nop\n mov [rdi], al\n hlt")
    bare.machine.cpu.words[RDI] = WINDOW
    bare.machine.run(100)
    (trap,) = bare.traps
    assert (trap.vector, trap.error_code, trap.address, trap.rip) == (PF, 7, WINDOW, CODE + 1)
    assert trap.position == 2
    bare.map(0, 0x100, USER_RW)
    bare.machine.coherence.flush_page(WINDOW)
    assert bare.machine.run(1) is Ending.BUDGET
    assert bare.machine.position == 3


def test_several_faults_in_one_run_keep_their_vectors() -> None:
    """Unicorn turns the second into #DF and drops the third unless old_exception is reset."""
    bare = Bare()
    bare.code("mov al, [0x70000000]\n mov al, [0x70001000]\n mov al, [0x70002000]\n ud2")

    def skip(trap: Trap) -> None:
        bare.traps.append(trap)
        if trap.vector == PF:
            bare.machine.cpu.rip = trap.rip + 7
        else:
            bare.machine.stop()

    bare.machine.on_trap = skip
    bare.machine.run(100)
    assert [t.vector for t in bare.traps] == [PF, PF, PF, UD]
    assert [t.address for t in bare.traps[:3]] == [0x7000_0000, 0x7000_1000, 0x7000_2000]


@pytest.mark.parametrize(
    ("text", "kind", "vector"),
    [
        ("int3", TrapKind.SOFTWARE_INTERRUPT, BP),
        ("int 0x82", TrapKind.SOFTWARE_INTERRUPT, 0x82),
        ("int 14", TrapKind.SOFTWARE_INTERRUPT, 14),
        ("ud2", TrapKind.EXCEPTION, UD),
        ("hlt", TrapKind.EXCEPTION, GP),
        ("mov rax, cr3", TrapKind.EXCEPTION, GP),
        ("rdrand rax", TrapKind.EXCEPTION, UD),
        ("rdseed rax", TrapKind.EXCEPTION, UD),
        ("syscall", TrapKind.SYSCALL, -1),
    ],
)
def test_each_kind_of_trap(text: str, kind: TrapKind, vector: int) -> None:
    bare = Bare()
    bare.code("nop\n" + text)
    bare.machine.run(10)
    (trap,) = bare.traps
    assert (trap.kind, trap.vector, trap.position) == (kind, vector, 2)
    after = kind in (TrapKind.SOFTWARE_INTERRUPT, TrapKind.SYSCALL)
    size = len(assemble_bytes(text, CODE))
    assert trap.rip == CODE + 1 + (size if after else 0)


@pytest.mark.parametrize("text", ["out 0x80, al", "in al, dx", "outsb", "insd", "rep outsb"])
def test_port_io_traps_before_it_has_an_effect(text: str) -> None:
    bare = Bare()
    bare.code(text + "\n nop")
    words = bare.machine.cpu.words
    words[RAX], words[RDX], words[RSI], words[RDI], words[RCX] = 7, 0x80, 0x20000, 0x20000, 3
    bare.machine.run(10)
    (trap,) = bare.traps
    assert (trap.kind, trap.address, trap.rip) == (TrapKind.PORT_IO, 0x80, CODE)
    assert [words[r] for r in (RAX, RDX, RSI, RDI, RCX)] == [7, 0x80, 0x20000, 0x20000, 3]


@pytest.mark.parametrize(("spans", "budget"), [(False, 100), (True, 100), (False, 3)])
def test_a_fetch_fault_comes_after_what_lies_before_the_page(spans: bool, budget: int) -> None:
    """The engine translates ahead and reports the fault for the whole block."""
    bare = Bare()
    bare.map(0, 0x100, USER_RO)
    frame = bare.machine.memory.frame(MFN(0x100))
    code = assemble_bytes("inc rax\n" * 4) + (b"\x48\xb8" if spans else b"")
    frame[4096 - len(code) :] = code
    start = WINDOW + 4096 - len(code)
    bare.machine.cpu.rip = start
    ending = bare.machine.run(budget)
    if budget == 3:
        assert (ending, bare.traps, bare.machine.position) == (Ending.BUDGET, [], 3)
        ending = bare.machine.run(100)
    (trap,) = bare.traps
    assert ending is Ending.STOPPED
    assert (trap.vector, trap.error_code & 0x11, trap.address) == (PF, 0x10, WINDOW + 4096)
    assert trap.rip == start + 12
    assert bare.machine.cpu.words[RAX] == 4
    # Nothing of the detour is left: with the page there, the code runs on.
    bare.map(1, 0x101, USER_RO)
    bare.machine.memory.frame(MFN(0x101))[:] = b"\0" * 8 + b"\xcc" * 4088
    bare.traps.clear()
    bare.machine.cpu.rip = start
    assert bare.machine.run(100) is Ending.STOPPED
    assert [t.vector for t in bare.traps] == [BP]


def test_a_handler_redirects_syscall_exactly() -> None:
    bare = Bare()
    bare.code("syscall\n ud2\n nop\n inc rax\n int3")

    def jump() -> None:
        bare.machine.cpu.rip = CODE + 5

    bare.machine.on_syscall = jump
    bare.machine.run(100)
    assert bare.machine.cpu.words[RAX] == 1
    assert [t.vector for t in bare.traps] == [BP]


def test_privilege_and_width_follow_loaded_segments() -> None:
    bare = Bare()
    cpu = bare.machine.cpu
    assert (cpu.cpl, cpu.bits) == (3, 64)
    cpu.load_segment(CS, 0x23, 0x00CFFB00)
    cpu.sync_mode()
    assert (cpu.cpl, cpu.bits) == (3, 32)
    # In 32-bit code the byte 0x48 is `dec eax`, in 64-bit code a REX prefix.
    bare.machine.load(MA(CODE), b"\x48\x48\xcc")
    cpu.rip = CODE
    cpu.words[RAX] = 5
    bare.machine.run(10)
    assert cpu.words[RAX] == 3
    bare.machine.flat64(0, 0x8, 0x10)
    assert (cpu.cpl, cpu.bits) == (0, 64)
    assert cpu.selector(CS) == 0x8
    assert cpu.selector(SS) == 0x10


def test_halt_at_privilege_0_ends_the_run() -> None:
    bare = Bare(cpl=0)
    bare.code("nop\n hlt\n nop")
    assert bare.machine.run(100) is Ending.HALTED
    assert bare.machine.position == 2


@pytest.mark.parametrize("value", [0, RFLAGS_CF, RFLAGS_ZF | RFLAGS_OF, RFLAGS_DF | RFLAGS_CF])
def test_flags_round_trip_and_are_what_the_guest_sees(value: int) -> None:
    bare = Bare()
    cpu = bare.machine.cpu
    cpu.flags = value
    assert cpu.flags & ~2 == value
    bare.code("pushfq\n pop rax\n add rbx, rbx\n int3")
    cpu.words[4] = 0x20000
    cpu.words[RBX] = 1 << 63
    bare.machine.run(10)
    assert cpu.words[RAX] & ~2 == value
    # 2**63 + 2**63: carry, zero and overflow, computed lazily by the engine.
    assert cpu.flags & (RFLAGS_CF | RFLAGS_ZF | RFLAGS_OF) == RFLAGS_CF | RFLAGS_ZF | RFLAGS_OF


def test_time_is_the_position() -> None:
    bare = Bare()
    bare.code("nop\n nop\n rdtsc\n mov rbx, rax\n rdtsc\n int3")
    bare.machine.run(10)
    words = bare.machine.cpu.words
    assert (words[RBX], words[RAX]) == (3, 5)


def test_cpuid_is_the_owners_if_it_answers() -> None:
    bare = Bare()
    bare.code("mov eax, 0x40000000\n cpuid\n int3")
    bare.machine.on_cpuid = lambda leaf, sub: (1, 2, 3, 4) if leaf == 0x4000_0000 else None
    bare.machine.run(10)
    assert bare.machine.cpu.words[RAX] == 1
    bare.code("xor eax, eax\n cpuid\n int3")
    bare.machine.run(10)
    assert bare.machine.cpu.words[RBX] == int.from_bytes(b"Genu", "little")


def test_state_saves_and_loads() -> None:
    bare = Bare()
    bare.code("movq xmm0, rdi\n inc rax\n movq rbx, xmm0\n int3")
    cpu = bare.machine.cpu
    cpu.words[RDI] = 0x1234
    bare.machine.run(1)
    saved = cpu.save()
    bare.machine.run(10)
    first = (cpu.words[RAX], cpu.words[RBX])
    cpu.load(saved)
    bare.machine.run(10)
    assert (cpu.words[RAX], cpu.words[RBX]) == first == (1, 0x1234)


# -- coherence ---------------------------------------------------------------------------------


def read_window(bare: Bare) -> int:
    bare.code("mov al, [rdi]\n int3")
    bare.machine.cpu.words[RDI] = WINDOW
    bare.machine.cpu.words[RAX] = 0
    bare.machine.run(10)
    return bare.machine.cpu.words[RAX]


@pytest.mark.parametrize("whole", [True, False])
def test_a_changed_entry_is_seen_after_a_flush(whole: bool) -> None:
    bare = Bare()
    bare.machine.memory.frame(MFN(0x100))[0] = 1
    bare.machine.memory.frame(MFN(0x101))[0] = 2
    bare.map(0, 0x100, USER_RO)
    assert read_window(bare) == 1
    bare.map(0, 0x101, USER_RO)
    assert read_window(bare) == 1, "without a flush the TLB answers; else this test shows nothing"
    if whole:
        bare.machine.coherence.flush()
    else:
        bare.machine.coherence.flush_page(WINDOW)
    assert read_window(bare) == 2


def test_a_flush_from_within_a_trap_holds_for_the_next_instruction() -> None:
    bare = Bare()
    bare.machine.memory.frame(MFN(0x100))[0] = 1
    bare.machine.memory.frame(MFN(0x101))[0] = 2
    bare.map(0, 0x100, USER_RW)
    bare.code("mov [rdi], al\n syscall\n mov [rdi], al\n int3")
    bare.machine.cpu.words[RDI] = WINDOW

    def make_read_only() -> None:
        bare.map(0, 0x100, USER_RO)
        bare.machine.coherence.flush_page(WINDOW)

    bare.machine.on_syscall = make_read_only
    bare.machine.run(10)
    (trap,) = bare.traps
    assert (trap.vector, trap.error_code) == (PF, 7)


def test_many_page_flushes_become_a_whole_one() -> None:
    bare = Bare()
    before = bare.machine.coherence.flushes
    for page in range(100):
        bare.machine.coherence.flush_page(WINDOW)
        assert page >= 0
    bare.machine.coherence.settle()
    assert bare.machine.coherence.flushes == before + 1
    assert bare.machine.coherence.page_flushes == 0


def test_code_written_by_the_host_runs() -> None:
    bare = Bare()
    bare.map(0, 0x100, USER_RO)
    frame = bare.machine.memory.frame(MFN(0x100))
    frame[:3] = assemble_bytes("mov al, 1") + b"\xcc"
    bare.machine.cpu.rip = WINDOW
    bare.machine.run(10)
    assert bare.machine.cpu.words[RAX] == 1
    frame[1] = 2
    bare.machine.cpu.rip = WINDOW
    bare.machine.run(10)
    assert bare.machine.cpu.words[RAX] == 1, "the translation is stale; else this shows nothing"
    bare.machine.coherence.wrote(MFN(0x100))
    bare.machine.cpu.rip = WINDOW
    bare.machine.run(10)
    assert bare.machine.cpu.words[RAX] == 2


def test_code_in_several_written_frames_runs() -> None:
    """Neighbours and others; and what lies between them and was not written stays translated."""
    bare = Bare()
    frames = [0x100, 0x101, 0x103, 0x200]
    for i, mfn in enumerate((*frames, 0x102)):
        bare.map(i, mfn, USER_RO)
        bare.machine.memory.frame(MFN(mfn))[:3] = assemble_bytes("mov al, 1") + b"\xcc"

    def results() -> list[int]:
        found = []
        for i in range(5):
            bare.machine.cpu.rip = WINDOW + i * 4096
            bare.machine.run(10)
            found.append(bare.machine.cpu.words[RAX])
        return found

    assert results() == [1] * 5
    for mfn in (*frames, 0x102):
        bare.machine.memory.frame(MFN(mfn))[1] = 2
    for mfn in frames:
        bare.machine.coherence.wrote(MFN(mfn))
    assert results() == [2, 2, 2, 2, 1]


def test_accessed_and_dirty_are_set_by_the_mmu() -> None:
    bare = Bare()
    bare.map(0, 0x100, USER_RW)
    read_window(bare)
    assert bare.words[L1 * ENTRIES] & (PTE_A | PTE_D) == PTE_A
    bare.code("mov [rdi], al\n int3")
    bare.machine.run(10)
    assert bare.words[L1 * ENTRIES] & (PTE_A | PTE_D) == PTE_A | PTE_D


# -- errors ------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def boom(*_: object) -> None:
    raise Boom


@pytest.mark.parametrize(
    "text", ["ud2", "int3", "syscall", "out 0x80, al", "in al, 0x80", "mov al, [0x70000000]"]
)
def test_errors_in_trap_handlers_reach_the_caller(text: str) -> None:
    bare = Bare()
    bare.machine.on_trap = boom
    bare.code(text)
    with pytest.raises(Boom):
        bare.machine.run(10)


def test_errors_in_cpuid_and_rdtsc_reach_the_caller() -> None:
    bare = Bare()
    bare.machine.on_cpuid = boom  # type: ignore[assignment]
    bare.machine.on_tsc = boom  # type: ignore[assignment]
    for text in ("cpuid", "rdtsc"):
        bare.code(text)
        with pytest.raises(Boom):
            bare.machine.run(10)


def test_a_machine_without_an_owner_says_so() -> None:
    machine = Machine(16 << 20)
    with pytest.raises(MachineError, match="nobody handles"):
        machine.run(10)  # CR3 is 0: the first fetch faults


def test_an_entry_outside_memory_is_an_error_not_a_crash() -> None:
    bare = Bare(size=16 << 20)
    bare.map(0, 0x10_0000, USER_RW)
    bare.code("mov al, [rdi]")
    bare.machine.cpu.words[RDI] = WINDOW
    with pytest.raises(MachineError, match="Unicorn stopped at 0x10000"):
        bare.machine.run(10)


@pytest.mark.parametrize("size", [0, -4096, 4096, 5000, (1 << 20) + 1, 1 << 50])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(MachineError, match="machine memory"):
        Machine(size)


def test_another_build_of_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emu.engine, "TESTED_VERSION", "9.9.9")
    with pytest.raises(UnsupportedEngineError, match=r"cowbird needs 9\.9\.9"):
        Engine(Memory(1 << 20))


@pytest.mark.parametrize("machine", ["aarch64", "i686"])
def test_a_host_that_cannot_run_the_counter_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    """It is x86-64 machine code; elsewhere the first run would be the process's last."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UnsupportedEngineError, match=f"not Linux on {machine}"):
        Engine(Memory(1 << 20))


def test_a_moved_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emu.engine, "OFF_ERROR_CODE", emu.engine.OFF_ERROR_CODE + 8)
    with pytest.raises(UnsupportedEngineError, match="probe"):
        Engine(Memory(1 << 20))


def test_memory_is_sparse_and_bounded() -> None:
    memory = Memory(4 << 30)
    memory.words[(4 << 30) // 8 - 1] = 42
    assert memory.read_u64(MA((4 << 30) - 8)) == 42
    assert memory.read_u64(MA(4 << 30)) == 0
    with pytest.raises(MachineError, match="outside"):
        memory.read(MA((4 << 30) - 4), 8)
