"""``emu`` without any hypervisor: what the docstring of ``Machine`` shows."""

import pytest

from emu import Ending, Machine
from emu.asm import assemble_bytes
from emu.errors import MachineError
from emu.paging import PTE_P, PTE_PSE, PTE_RW
from emu.units import MA, VA
from emu.walk import USER_READ, WRITE


def flat_machine() -> Machine:
    machine = Machine(16 << 20)
    machine.memory.write_u64(MA(0x1000), 0x2000 | PTE_P | PTE_RW)
    machine.memory.write_u64(MA(0x2000), PTE_P | PTE_RW | PTE_PSE)
    machine.cpu.cr3 = 0x1000
    machine.coherence.flush()
    return machine


def test_boot_and_step_a_flat_binary() -> None:
    machine = flat_machine()
    machine.load(MA(0x8000), assemble_bytes("mov eax, 42\n add rax, rbx\n hlt", 0x8000))
    machine.cpu.rip = 0x8000
    machine.cpu.set_register("rbx", 8)
    assert machine.step() is Ending.BUDGET
    assert (machine.cpu.register("rax"), machine.cpu.register("rip")) == (42, 0x8005)
    assert machine.run(100) is Ending.HALTED
    assert machine.cpu.register("rax") == 50


def test_walk_uses_the_machines_own_registers() -> None:
    machine = flat_machine()
    found = machine.walk(VA(0x1234567), WRITE)
    assert found.ma == 0x1234567
    assert "PSE" in found.explain()
    denied = machine.walk(VA(0x8000), USER_READ)
    assert denied.fault is not None
    assert denied.fault.error_code == 5


def test_wrong_names_and_places_are_said() -> None:
    machine = flat_machine()
    with pytest.raises(KeyError, match="no register 'foo'; there are rax"):
        machine.cpu.register("foo")
    with pytest.raises(MachineError, match="no aligned 64-bit word"):
        machine.memory.write_u64(MA(0x1001), 0)
    with pytest.raises(MachineError, match="no aligned 64-bit word"):
        machine.memory.write_u64(MA(16 << 20), 0)
