"""The crash report leads to where the trouble began."""

from emu.units import VA
from guests.library import assemble_guest, to_elf
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from hypervisor.symbols import MAX_OFFSET, Symbols
from tests.hypervisor.tiny32 import Tiny32

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


def test_a_32_bit_domain_is_shown_in_its_width() -> None:
    tiny = Tiny32("mov ecx, 0x1234\n push 0x55667788\nf: mov eax, [0x41000000]")
    tiny.run()
    lines = tiny.crashed.splitlines()
    assert "unhandled #PF" in lines[0]
    assert f"eip {tiny.at('f'):#010x}  kernel mode, ring 1, 32-bit code" in lines
    assert any("ecx 00001234" in line for line in lines)
    assert any(line.startswith("  55667788 ") for line in lines)
    assert "  mov eax, dword ptr [0x41000000]" in "\n".join(lines).replace("0x40000000: ", "")
    at = next(i for i, line in enumerate(lines) if line.startswith("  walk of 0x"))
    assert f"PAE, CR3 {tiny.space.l3 << 12:#x}" in lines[at]
    assert [line.split("[")[0].strip() for line in lines[at + 1 : at + 3]] == ["L3", "L2"]
    assert "not present" in lines[at + 2]
