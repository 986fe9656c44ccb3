"""The crash report leads to where the trouble began."""

from emu.units import VA
from guests.library import assemble_guest, to_elf
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from hypervisor.symbols import MAX_OFFSET, Symbols

SOURCE = """
.include "lib/kernel.inc"
.text
main:
    ktap_plan 1
    nop
wrong:
    nop
    mov  qword ptr [rip + main], rax    ; writable: goes well
    xor  eax, eax
    mov  [rax + 8], eax
    ret
"""


def test_the_fault_is_named_though_the_kernel_panicked_by_itself(tmp_path) -> None:
    path = tmp_path / "k.asm"
    path.write_text(SOURCE)
    program = assemble_guest(path)
    hv = Hypervisor(Settings(machine_memory=16 << 20))
    image = parse_image(to_elf(program), "k")
    domain = build_domain(hv, image, memory=1 << 20, name="k", console=Console())
    hv.run(10_000_000)
    assert domain.exit is not None
    assert domain.exit.reason == "crash"
    report = domain.exit.report
    assert "<shutdown" in report or "<hypercall_page" in report
    fault = program.symbols["wrong"] + 1 + 7 + 2
    assert f"last exception: #PF at {fault:#x}, error code 0x6, address 0x8 (W U)" in report
    assert f"code at {fault:#x} <wrong+0xa>:" in report
    assert "mov dword ptr [rax + 8], eax" in report


def test_symbols_name_what_lies_behind_them() -> None:
    symbols = Symbols({"b": VA(0x2000), "a": VA(0x1000), "a2": VA(0x1000)})
    assert symbols.name(0xFFF) == ""
    assert symbols.name(0x1000) == "a2"
    assert symbols.name(0x1FFF) == "a2+0xfff"
    assert symbols.name(0x2000 + MAX_OFFSET) == f"b+{MAX_OFFSET:#x}"
    assert symbols.name(0x2001 + MAX_OFFSET) == ""
    assert Symbols().name(5) == ""
