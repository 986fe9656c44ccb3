"""A bare machine under the real gdb, and packet by packet."""

import re
import threading

import pytest

from emu.errors import MachineError
from emu.gdb.address import Address
from emu.gdb.bare import BareTarget
from emu.gdb.server import GdbServer
from emu.gdb.target import Cause, Resume, StopKind, TargetError, ThreadId
from tests.emu.bare import CODE, WINDOW, Bare
from tests.emu.gdb_client import PATIENCE, Talk
from tests.real_gdb import mark, part, run_gdb

LOOP = """
    mov ecx, 3
again:
    add rax, rcx
    mov [0x20000], eax
    loop again
    nop
"""
ME = ThreadId(1)


def bare(code: str = LOOP) -> Bare:
    machine = Bare()
    machine.code(code)
    return machine


def test_the_real_gdb_on_a_bare_machine() -> None:
    machine = bare(LOOP + "\n  jmp again")
    ready = threading.Event()
    where: list[Address] = []

    def announce(address: Address) -> None:
        where.append(address)
        ready.set()

    server = GdbServer(BareTarget(machine.machine, "bare"), Address(port=0), announce=announce)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    out = run_gdb(
        [
            "set pagination off",
            f"target remote {where[0]}",
            mark("look"), "info threads", "info registers cr0 efer", "x/2i $pc",
            mark("step"), "stepi", "print $ecx",
            mark("watch"), "watch *(int*)0x20000", "continue", "continue",
            mark("monitor"), "monitor walk 0x20000", "monitor info mem",
            mark("back"), "reverse-stepi",
            mark("end"), "kill",
        ]
    )  # fmt: skip
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert '"bare"' in part(out, "look")
    assert "[ PE MP" in part(out, "look")
    assert "= 3" in part(out, "step")
    assert "Old value = 0\nNew value = 3\n" in part(out, "watch")
    assert "Old value = 3\nNew value = 5\n" in part(out, "watch")
    assert "machine address 0x20000" in part(out, "monitor")
    assert "0000000000000000-0000000040000000" in part(out, "monitor")
    assert "does not support" in part(out, "back")


def test_stops() -> None:
    target = BareTarget(bare().machine)
    again = CODE + 5
    number = target.insert(1, StopKind.HARDWARE, again, 1)
    assert target.resume(Resume()).cause is Cause.HARDWARE
    target.remove(number)
    target.insert(1, StopKind.WRITE, 0x20000, 4)
    report = target.resume(Resume())
    assert (report.cause, report.address) == (Cause.WRITE, 0x20000)
    with pytest.raises(TargetError, match="writes only"):
        target.insert(1, StopKind.READ, 0x20000, 4)
    with pytest.raises(TargetError, match="nothing is mapped"):
        target.insert(1, StopKind.SOFTWARE, WINDOW, 1)
    with pytest.raises(TargetError, match="cannot go back"):
        target.resume(Resume(backward=True))


def test_a_trap_that_stops_the_machine_is_a_stop() -> None:
    machine = bare("mov rax, [0x40000000]")
    target = BareTarget(machine.machine)
    report = target.resume(Resume())
    assert (report.cause, report.text) == (Cause.CATCH, "a trap handler stopped the machine")
    assert len(machine.traps) == 1


def test_a_trap_that_nobody_handles_is_loud() -> None:
    machine = bare("mov rax, [0x40000000]")

    def fail(_trap: object) -> None:
        raise MachineError("nobody handles this")

    machine.machine.on_trap = fail
    with pytest.raises(MachineError):
        BareTarget(machine.machine).resume(Resume())


def test_halting_is_said() -> None:
    machine = Bare(cpl=0)
    machine.code("hlt")
    assert BareTarget(machine.machine).resume(Resume()).cause is Cause.IDLE


def test_code_that_a_debugger_writes_is_what_runs() -> None:
    machine = bare("inc eax\n jmp 0x10000")
    target = BareTarget(machine.machine)
    target.resume(Resume(stepping=ME))
    target.resume(Resume(stepping=ME))
    target.write(1, CODE, b"\xff\xc3")  # inc ebx
    target.resume(Resume(stepping=ME))
    assert target.registers(ME)["rbx"] == 1


def test_memory_that_only_the_supervisor_may_touch_is_read() -> None:
    machine = bare()
    machine.map(0, 0x30, 1)  # present, not user, not writable
    machine.machine.coherence.flush()
    target = BareTarget(machine.machine)
    target.write(1, WINDOW + 0xFFE, b"ab")
    assert target.read(1, WINDOW + 0xFFC, 100) == b"\0\0ab"
    with pytest.raises(TargetError, match="nothing is mapped"):
        target.write(1, WINDOW + 0xFFE, b"cdef")
    assert target.read(1, WINDOW + 0xFFC, 4) == b"\0\0ab"
    assert target.read(1, WINDOW + 0x1000, 4) == b""
    assert target.read(1, 1 << 63, 4) == b""
    assert target.read_physical(0xFFFFFFFF, 4) == b""
    with pytest.raises(TargetError, match="outside memory"):
        target.write_physical(0xFFFFFFFF, b"x")


def test_registers_that_can_be_set() -> None:
    target = BareTarget(bare().machine)
    for name, value in (("rax", 5), ("rflags", 0x246), ("fs_base", 0x1000), ("xmm3", 7)):
        target.set_register(ME, name, value)
        assert target.registers(ME)[name] == value
    target.set_register(ME, "cr3", 0x1000)
    with pytest.raises(TargetError, match="cannot be set"):
        target.set_register(ME, "cs", 8)


def test_qemus_texts() -> None:
    machine = bare()
    machine.map(0, 5, 1)
    machine.map(1, 6, 7)
    target = BareTarget(machine.machine)
    assert target.monitor(1, "info mem").splitlines() == [
        "0000000000000000-0000000040000000 0000000040000000 urw",
        "0000000040000000-0000000040001000 0000000000001000 -r-",
        "0000000040001000-0000000040002000 0000000000001000 urw",
    ]
    assert target.monitor(1, "info tlb").splitlines()[2] == (
        "0000000040001000: 0000000000006000 -------UW"
    )
    text = target.monitor(1, "info  registers")
    assert re.search(r"^RIP=0000000000010000 RFL=00000002", text, re.M)
    assert re.search(r"^CR0=80050033 CR2=\w{16} CR3=0000000000001000 CR4=\w{8}$", text, re.M)
    assert "no such" not in target.monitor(1, "help")
    with pytest.raises(TargetError, match="no command"):
        target.monitor(1, "nonsense")
    with pytest.raises(TargetError, match="no address"):
        target.monitor(1, "walk here")


def test_no_way_back_is_offered() -> None:
    assert "Reverse" not in Talk(BareTarget(bare().machine))("qSupported:")
