"""32-bit PAE guests: start of day, hypercalls, and what their memory looks like."""

import argparse
from pathlib import Path

from emu.units import PAGE_SIZE
from guests.library import build_elf, find
from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.image import parse_image
from tests.hypervisor.kernels import Lab
from tests.hypervisor.kernels32 import kernel32

MODULE = Path(argparse.__file__).read_bytes()


def test_hello_by_int82_and_by_the_hypercall_page() -> None:
    lab = Lab()
    domain = lab.boot(
        kernel32(
            """
            hyper 18, 0, 6, offset text
            mov ebx, 0
            mov edi, offset hypercall_page + 18 * 32
            mov ecx, 5
            call edi
            jmp poweroff
            text: .ascii "hello\\n"
            """
        )
    )
    assert audit(lab.hv) == []
    assert lab.hv.run(10_000)
    assert domain.console.text() == "hello\nhello"
    assert lab.exits[domain.id].reason == "poweroff"
    lab.check_empty()


def saved_by(widths: tuple[int, ...]) -> tuple[int, int, list[str]]:
    """Eight ``share`` domains over one file: (frames saved at most, frames entered, last lines)."""
    lab = Lab(memory=64 << 20)
    domains = []
    for i in range(8):
        name = f"share{i}"
        image = parse_image(build_elf(find("share"), widths[i % len(widths)]), name)
        domains.append(
            build_domain(
                lab.hv,
                image,
                memory=2 << 20,
                name=name,
                cmdline="write=0",
                module=MODULE,
                console=Console(),
            )
        )
    assert lab.hv.run(2_000_000_000)
    assert [lab.exits[domain.id].reason for domain in domains] == ["poweroff"] * 8
    for domain in domains:
        assert [line for line in domain.console.lines if line.startswith("not ok")] == []
    lab.check_empty()
    return lab.hv.sharing.peak_saved, lab.hv.sharing.entered, domains[0].console.lines[-1:]


def test_equal_contents_merge_across_widths() -> None:
    """Four domains of each width over one file save what eight of one width save."""
    narrow, wide, mixed = saved_by((32,)), saved_by((64,)), saved_by((64, 32))
    assert narrow == wide == mixed
    assert mixed[0] > 7 * len(MODULE) // PAGE_SIZE


def test_the_mode_is_known_wherever_a_run_is_cut() -> None:
    """It goes to ring 3 by itself (IRETD), and no trap tells of that."""
    lab = Lab()
    domain = lab.boot(
        kernel32(
            """
            hyper 0, offset table
            push 0xe033
            push offset scratch + 4096
            push 0x202
            push 0xe02b
            push offset user
            iretd
            user: nop
            jmp user
            .align 8
            table: .byte 3, 3
            .word 0xe019
            .long user
            .zero 8
            """
        )
    )
    modes = []
    for _ in range(20):
        lab.hv.run(1)
        modes.append(domain.kernel_mode)
    assert modes == sorted(modes, reverse=True)
    assert modes[0]
    assert not modes[-1]
    assert lab.hv.machine.cpu.cpl == 3
